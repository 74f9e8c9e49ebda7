// Requests that want the same thing share it: one table read, one decoding, one read where the
// host is contiguous. And what is shared costs the data path no allocation.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import TestKit
import Testing

@Suite(.enabled(if: hasQemuImg, "needs qemu-img")) struct SharingTests {
    static let size = 4 << 20

    private func image(_ images: Images, _ options: String = "") throws -> [UInt8] {
        try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert \(options) -f raw -O qcow2 a.raw a.qcow2")
        return try images.bytes("a.raw")
    }

    /// Starts a read on every slot, then waits for all.
    private func readAtOnce(_ harness: EngineHarness, slots: Int, step: Int, length: Int) -> [Int32] {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: slots * length, alignment: 4096)
        defer { memory.deallocate() }
        for slot in 0..<slots {
            harness.engine.submitRead(
                slot: slot, guest: GuestOffset(UInt64(slot * step)), buffer: memory + slot * length, length: length)
        }
        return (0..<slots).map { _ in harness.wait()?.error ?? -1 }
    }

    @Test func aTableIsReadOnceForAllWhoWaitForIt() throws {
        let images = try Images()
        _ = try image(images, "-S 0")
        let harness = try EngineHarness(try images.open("a.qcow2"))
        #expect(readAtOnce(harness, slots: 16, step: 65536, length: 4096).allSatisfy { $0 == 0 })
        #expect(harness.engine.statistics.tableReads == 1)
    }

    @Test func aClusterIsDecodedOnceForAllWhoWaitForIt() throws {
        let images = try Images()
        _ = try image(images, "-c")
        let chain = try images.open("a.qcow2")
        var walker = ExtentWalker(chain)
        var found: Extent?
        while let step = walker.next() {
            if case .extent(let extent) = step, extent.kind == .compressed { found = extent }
        }
        guard let cluster = found else { throw TestFailure("nothing compressed") }
        let harness = try EngineHarness(chain)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 65536, alignment: 4096)
        defer { memory.deallocate() }
        for slot in 0..<16 {
            harness.engine.submitRead(
                slot: slot, guest: cluster.clusterStart + UInt64(slot * 4096), buffer: memory + slot * 4096,
                length: 4096)
        }
        for _ in 0..<16 { #expect(harness.wait()?.error == 0) }
        #expect(harness.engine.statistics.clustersDecoded == 1)
        #expect(harness.engine.statistics.cacheJoins == 15)
        _ = harness.read(Int(cluster.clusterStart.bytes), 4096)
        #expect(harness.engine.statistics.clustersDecoded == 1)
        #expect(harness.engine.statistics.cacheHits == 1)
    }

    @Test func contiguousClustersAreOneRead() throws {
        let images = try Images()
        // A slice of a table covers 32 MiB: one read crosses several.
        try images.run("qemu-img create -f qcow2 a.qcow2 80M && qemu-io -f qcow2 -c 'write -P 7 1M 79M' a.qcow2")
        let chain = try images.open("a.qcow2")
        var walker = ExtentWalker(chain)
        var longest = Extent(guest: GuestOffset(0), length: 0, kind: .zero)
        while let step = walker.next() {
            if case .extent(let extent) = step, extent.length > longest.length { longest = extent }
        }
        #expect(longest.kind == .data && longest.length == 79 << 20)
        let harness = try EngineHarness(chain)
        let at = Int(longest.guest.bytes)
        #expect(harness.read(at, Int(longest.length)).error == 0)
        let before = harness.engine.statistics.dataTransfers
        #expect(harness.read(at, Int(longest.length)).error == 0)
        #expect(harness.engine.statistics.dataTransfers == before + 1)
    }

    @Test func piecesOfOneRequestAreInFlightTogether() throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.qcow2 1M")
        // Written backwards: no two neighbours are neighbours in the file.
        for i in (0..<8).reversed() { try images.run("qemu-io -f qcow2 -c 'write -P \(i + 1) \(i * 64)k 64k' a.qcow2") }
        let harness = try EngineHarness(try images.open("a.qcow2"))
        _ = harness.read(0, 512)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 8 * 65536, alignment: 4096)
        defer { memory.deallocate() }
        harness.engine.submitRead(slot: 0, guest: GuestOffset(0), buffer: memory, length: 8 * 65536)
        #expect(harness.ring.submit() >= 7)
        #expect(harness.wait()?.error == 0)
    }

    @Test func zerosFinishWithoutTheKernel() throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.qcow2 1G")
        let harness = try EngineHarness(try images.open("a.qcow2"))
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 65536, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 7, 65536)
        harness.engine.submitRead(slot: 2, guest: GuestOffset(1 << 20), buffer: memory, length: 65536)
        #expect(harness.engine.inFlight == 1)
        harness.engine.submit()
        #expect(harness.engine.nextFinished()?.slot == 2)
        #expect(harness.engine.nextFinished() == nil)
        #expect(harness.engine.inFlight == 0)
        #expect(UnsafeRawBufferPointer(start: memory, count: 65536).allSatisfy { $0 == 0 })
    }
}
