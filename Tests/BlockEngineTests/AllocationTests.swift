// The data path allocates nothing. The optimised build is what serves; a debug build could box
// what it likes, but does not, so that the claim is held wherever the tests run.
import BlockEngine
import CountAllocations
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import TestKit
import Testing

@Suite(.enabled(if: hasQemuImg && qblk_counts_allocations() != 0, "needs qemu-img and a build without sanitizer"))
struct AllocationTests {
    @Test func theCounterCounts() {
        let before = qblk_allocations()
        // Wiped by the C library, so that the optimiser cannot do without the memory.
        guard let memory = malloc(100) else { return }
        explicit_bzero(memory, 100)
        free(memory)
        #expect(qblk_allocations() == before + 1)
    }

    /// Allocations of this thread while `count` random block reads go through the engine.
    private func allocations(_ chain: ImageChain, count: Int, length: Int) throws -> UInt {
        let ring = try Ring(entries: 64)
        let engine = try RequestEngine(chain: chain, ring: ring, slots: 32)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 32 * length, alignment: 4096)
        defer { memory.deallocate() }
        var random = SeededRandom(4)
        var total: UInt = 0
        // The first round fills caches and grows buffers; only the second is counted.
        for round in 0..<2 {
            let before = qblk_allocations()
            var started = 0
            var finished = 0
            for slot in 0..<32 {
                start(engine, slot, chain, &random, memory, length)
                started += 1
            }
            while finished < count {
                let before = finished
                engine.submit()
                while let done = engine.nextFinished() {
                    finished += 1
                    guard done.error == 0 else { throw TestFailure("error \(done.error)") }
                    if started < count {
                        start(engine, Int(done.slot), chain, &random, memory, length)
                        started += 1
                    }
                }
                if finished == before { ring.submitAndWait(1) }
                ring.drain { userData, result in engine.complete(userData, result) }
            }
            if round == 1 { total = qblk_allocations() - before }
        }
        return total
    }

    private func start(
        _ engine: RequestEngine, _ slot: Int, _ chain: ImageChain, _ random: inout SeededRandom,
        _ memory: UnsafeMutableRawPointer, _ length: Int
    ) {
        let at = UInt64(random.below(Int(chain.size) / length) * length)
        engine.submitRead(slot: slot, guest: GuestOffset(at), buffer: memory + slot * length, length: length)
    }

    @Test(arguments: ["", "-c", "-o cluster_size=4096"], [4096, 16384])
    func aRequestAllocatesNothing(options: String, length: Int) throws {
        let images = try Images()
        try images.disk("a.raw", size: 4 << 20)
        try images.run("qemu-img convert \(options) -f raw -O qcow2 a.raw a.qcow2")
        let total = try allocations(try images.open("a.qcow2"), count: 5000, length: length)
        #expect(total == 0)
    }
}
