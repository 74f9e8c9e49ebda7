// Images are written by strangers, and workers share what they read of them. Neither broken
// bytes nor each other may make an engine trap, hang or lie.
import BlockEngine
import DiskTypes
import ImageChain
import TestKit
import Testing

@Suite(.enabled(if: hasQemuImg, "needs qemu-img")) struct HostileTests {
    @Test(arguments: ["", "-c", "-c -o compression_type=zstd", "-o extended_l2=on"], 0..<12 as Range<UInt64>)
    func brokenImagesGiveErrorsAndNothingWorse(options: String, seed: UInt64) throws {
        let images = try Images()
        try images.disk("a.raw", size: 2 << 20)
        try images.run("qemu-img convert \(options) -f raw -O qcow2 -o cluster_size=16384 a.raw a.qcow2")
        var bytes = try images.bytes("a.qcow2")
        var random = SeededRandom(seed + 1)
        // Everything behind the header: L1, refcounts, L2 tables, streams.
        for _ in 0..<(1 + random.below(200)) {
            let at = seed % 2 == 0 ? 16384 + random.below(6 * 16384) : 16384 + random.below(bytes.count - 16384)
            bytes[at] ^= UInt8(1 << random.below(8))
        }
        try images.write("a.qcow2", bytes)
        let chain: ImageChain
        do { chain = try images.open("a.qcow2", l2CacheLimit: 1) } catch { return }
        let harness = try EngineHarness(chain, decodedCacheBytes: 1 << 16)
        for _ in 0..<60 {
            let at = random.below(Int(chain.size))
            let result = harness.read(at, min(1 + random.below(200_000), Int(chain.size) - at))
            #expect(result.error != -1, "stuck (seed \(seed))")
        }
        var walker = ExtentWalker(chain)
        var covered: UInt64 = 0
        while let step = walker.next() { covered += step.length }
        #expect(covered == chain.size)
    }

    @Test func workersThatFightOverTwoTablesAllGetOn() async throws {
        let images = try Images()
        try images.disk("a.raw", size: 4 << 20)
        try images.run("qemu-img convert -f raw -O qcow2 -o cluster_size=512 a.raw a.qcow2")
        let truth = try images.truth("a.qcow2")
        let chain = try images.open("a.qcow2", l2CacheLimit: 1)
        let wrong = try await withThrowingTaskGroup(of: String?.self) { group in
            for worker in 0..<4 {
                // Nothing in here suspends: ring and engine stay on one thread.
                group.addTask {
                    try EngineHarness(chain, slots: 8).compare(
                        with: truth, count: 150, seed: UInt64(worker + 1), slots: 8, anyRead(truth.count))
                }
            }
            var all: [String] = []
            for try await result in group { if let result { all.append(result) } }
            return all
        }
        #expect(wrong == [])
    }
}
