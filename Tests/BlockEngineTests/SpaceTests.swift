// A discard of a guest is worth something only when the host gets the space.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import Testing

struct SpaceTests {
    @Test("What is discarded goes back to the host, however small the clusters are", arguments: ["512", "2k", "64k"])
    func discardsGiveSpaceBack(cluster: String) throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 -o cluster_size=\(cluster) a.qcow2 8M")
        let chain = try images.open("a.qcow2", direct: false, writable: true)
        let harness = try EngineHarness(chain)
        chain.writer?.returnsSpace(true)
        let size = 1 << 20
        let memory = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 7, size)
        func run(_ operation: BlockRequest.Operation, _ at: Int, _ length: Int) -> Int32? {
            var request = BlockRequest(operation, slot: 0, guest: GuestOffset(UInt64(at)), length: UInt64(length))
            if operation == .write {
                request.iovecs = harness.kept([iovec(iov_base: memory, iov_len: length)], slot: 0)
                request.iovecCount = 1
            }
            harness.engine.submit(request)
            return harness.wait()?.error
        }
        for at in stride(from: 0, to: 8 << 20, by: size) { #expect(run(.write, at, size) == 0) }
        #expect(run(.flush, 0, 0) == 0)
        #expect(try chain.files[0].diskUsage() >= 8 << 20)
        #expect(run(.discard, 0, 8 << 20) == 0)
        #expect(run(.flush, 0, 0) == 0)
        let usage = chain.files[0]
        try chain.closeAndUnlock()
        #expect(try usage.diskUsage() < 2 << 20)
        try images.run("qemu-img check -f qcow2 a.qcow2")
    }

    @Test("An image whose last changes could not be written says so each time it is closed")
    func closingTwice() throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.qcow2 8M")
        let chain = try images.open("a.qcow2", direct: false, writable: true)
        let writer = try #require(chain.writer)
        _ = try EngineHarness(chain).read(0, 512)
        writer.foundLoss(ENOSPC)
        for _ in 0..<2 { #expect(throws: ImageError.self) { try chain.close() } }
    }
}
