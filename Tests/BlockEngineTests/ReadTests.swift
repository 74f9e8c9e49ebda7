// Whatever an image is made of and however it is asked, the engine reads what QEMU reads.
import BlockEngine
import DiskTypes
import ImageChain
import TestKit
import Testing

@Suite(.enabled(if: hasQemuImg, "needs qemu-img")) struct ReadTests {
    static let size = (9 << 20) + 512 * 3

    /// Any read of `name`, through the page cache and past it, is what QEMU reads.
    private func check(
        _ images: Images, _ name: String, count: Int = 1500, l2CacheLimit: UInt64 = 64 << 20, cache: Int = 8 << 20,
        format: String = "qcow2"
    ) throws {
        let truth = try images.truth(name, format: format)
        for direct in [false, true] {
            let chain = try images.open(name, direct: direct, l2CacheLimit: l2CacheLimit)
            #expect(chain.size == UInt64(truth.count))
            let harness = try EngineHarness(chain, maxIovecs: 8, decodedCacheBytes: cache)
            let wrong = harness.compare(
                with: truth, count: count, seed: UInt64.random(in: 1...1_000_000),
                anyRead(truth.count, iovecs: 8))
            #expect(wrong == nil, "direct: \(direct)")
            #expect(harness.engine.inFlight == 0)
        }
    }

    @Test func plainClusters() throws {
        let images = try Images()
        try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert -f raw -O qcow2 a.raw a.qcow2")
        try check(images, "a.qcow2", count: 10_000)
    }

    @Test func aRawFile() throws {
        let images = try Images()
        try images.disk("a.raw", size: Self.size)
        try check(images, "a.raw", format: "raw")
    }

    @Test func aRawFileThatEndsInsideASector() throws {
        let images = try Images()
        let bytes = try images.disk("a.raw", size: 1_000_001)
        let truth = bytes + [UInt8](repeating: 0, count: 512 - 1_000_001 % 512)
        for direct in [false, true] {
            let harness = try EngineHarness(try images.open("a.raw", direct: direct))
            #expect(harness.compare(with: truth, count: 1000, seed: 5, anyRead(truth.count)) == nil)
            let end = harness.read(truth.count - 4096 - 1024, 4096 + 1024)
            #expect(end.error == 0 && end.bytes == Array(truth[(truth.count - 4096 - 1024)...]), "direct: \(direct)")
        }
    }

    @Test(arguments: ["zlib", "zstd"], ["512", "4096", "65536", "2M"])
    func compressedClusters(method: String, cluster: String) throws {
        let images = try Images()
        try images.disk("a.raw", size: Self.size)
        try images.run(
            "qemu-img convert -c -f raw -O qcow2 -o compression_type=\(method),cluster_size=\(cluster) a.raw a.qcow2")
        try check(images, "a.qcow2", count: 400)
    }

    @Test func compressedClustersWithACacheThatHoldsOne() throws {
        let images = try Images()
        try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert -c -f raw -O qcow2 a.raw a.qcow2")
        try check(images, "a.qcow2", count: 300, cache: 0)
    }

    @Test func aChainOfCompressedAndPlainLayers() throws {
        let images = try Images()
        try images.disk("base.raw", size: 5_000_001)
        try images.disk("middle.raw", size: Self.size, seed: 2)
        try images.run(
            """
            qemu-img create -f qcow2 -b base.raw -F raw -o cluster_size=4096 one.qcow2 6M
            qemu-io -f qcow2 -c 'write -P 17 1000000 300000' -c 'write -z 2M 1M' -c 'write -P 3 4900000 70000' one.qcow2
            qemu-img convert -c -O qcow2 -B one.qcow2 -F qcow2 -f qcow2 one.qcow2 two.qcow2
            qemu-img create -f qcow2 -b two.qcow2 -F qcow2 three.qcow2 \(Self.size)
            qemu-io -f qcow2 -c 'write -P 99 512 1024' -c 'write -c -P 44 3M 64k' -c 'write -P 5 8M 100k' three.qcow2
            """)
        try check(images, "three.qcow2")
        try check(images, "three.qcow2", count: 300, l2CacheLimit: 1)
    }

    @Test func subclusters() throws {
        let images = try Images()
        try images.disk("base.raw", size: Self.size)
        try images.run("qemu-img create -f qcow2 -b base.raw -F raw -o extended_l2=on,cluster_size=128k a.qcow2")
        for i in 0..<60 {
            let at = (i * 7919 * 512) % (Self.size - 70_000) & ~511
            let what = ["-P \(i + 1)", "-z", "-z -u"][i % 3]
            try images.run("qemu-io -f qcow2 -c 'write \(what) \(at) \(512 * (1 + i % 23))' a.qcow2")
        }
        try check(images, "a.qcow2")
    }

    @Test func aCacheOfTwoTablesServesManyRequestsAtOnce() throws {
        let images = try Images()
        // 512 byte clusters: a table maps 32 KiB, so that every larger read needs several tables.
        try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert -f raw -O qcow2 -o cluster_size=512 a.raw a.qcow2")
        try check(images, "a.qcow2", count: 500, l2CacheLimit: 1)
    }

    @Test func blocksGoStraightIntoTheCallersMemory() throws {
        let images = try Images()
        try images.disk("a.raw", size: 8 << 20)
        try images.run("qemu-img convert -f raw -O qcow2 a.raw a.qcow2")
        let truth = try images.truth("a.qcow2")
        let chain = try images.open("a.qcow2")
        let harness = try EngineHarness(chain)
        #expect(harness.compare(with: truth, count: 2000, seed: 11, blockRead(truth.count)) == nil)
        #expect(harness.engine.statistics.bounces == 0)
    }

    @Test func moreRequestsThanPiecesAreServedInTurn() throws {
        let images = try Images()
        // Alternating clusters of data and zeros: every read of 4 MiB is thousands of pieces.
        try images.run("qemu-img create -f qcow2 -o cluster_size=512 a.qcow2 4M")
        let writes = (0..<1024).map { "write -P \($0 % 250 + 1) \($0 * 1536) 512" }.joined(separator: "\n")
        try images.write("writes", Array(writes.utf8) + [10])
        try images.run("qemu-io -f qcow2 a.qcow2 <writes")
        let truth = try images.truth("a.qcow2")
        for direct in [false, true] {
            let harness = try EngineHarness(try images.open("a.qcow2", direct: direct), slots: 8, entries: 8)
            let all: (inout SeededRandom) -> Planned = { random in
                let skew = random.below(2)
                return Planned(guest: 0, length: 3 << 20, parts: [(skew, 3 << 20)])
            }
            #expect(harness.compare(with: truth, count: 24, seed: 3, slots: 8, all) == nil)
            #expect(harness.engine.statistics.resourceWaits > 0)
        }
    }

    /// A writable image keeps some pieces for writes that allocate: a compressed cluster must not take one of them.
    @Test(arguments: [false, true]) func compressedClustersOfAWritableImageWaitForPiecesToo(direct: Bool) throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 -o cluster_size=4k a.qcow2 2M")
        let writes = (0..<512).map { "write \($0 % 2 == 0 ? "" : "-c ")-P \($0 % 250 + 1) \($0 * 4096) 4k" }
        try images.write("writes", Array(writes.joined(separator: "\n").utf8) + [10])
        try images.run("qemu-io -f qcow2 a.qcow2 <writes")
        let truth = try images.truth("a.qcow2")
        let chain = try images.open("a.qcow2", direct: direct, writable: true, format: .qcow2)
        let harness = try EngineHarness(chain, slots: 8)
        let all: (inout SeededRandom) -> Planned = { _ in Planned(guest: 0, length: 2 << 20, parts: [(0, 2 << 20)]) }
        #expect(harness.compare(with: truth, count: 24, seed: 3, slots: 8, all) == nil)
        #expect(harness.engine.statistics.resourceWaits > 0)
    }
}
