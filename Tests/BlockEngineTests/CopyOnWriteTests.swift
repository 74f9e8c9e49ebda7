// A write that must copy what lies around it owns clusters while it reads. Nothing that waits for its place may keep it
// from going on.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import Testing

struct CopyOnWriteTests {
    @Test(
        "A write over several clusters goes on when there is one place for allocating writes",
        arguments: [true, false], [1, 2, 3])
    func onePlace(isDirect: Bool, slots: Int) throws {
        let images = try Images()
        var truth = try images.disk("a.raw", size: 2 << 20)
        try images.run("qemu-img create -f qcow2 -b a.raw -F raw a.qcow2")
        let chain = try images.open("a.qcow2", direct: isDirect, writable: true)
        let harness = try EngineHarness(chain, slots: slots)
        harness.engine.writesInline = isDirect
        let length = 96 << 10
        let memory = UnsafeMutableRawPointer.allocate(byteCount: slots * length, alignment: 4096)
        defer { memory.deallocate() }
        for round in 0..<4 {
            for slot in 0..<slots {
                let byte = UInt8(1 + round * slots + slot)
                let at = (round * slots + slot) * (160 << 10) + (32 << 10)
                memset(memory + slot * length, Int32(byte), length)
                for i in at..<at + length { truth[i] = byte }
                let list = harness.kept([iovec(iov_base: memory + slot * length, iov_len: length)], slot: slot)
                harness.engine.submit(
                    BlockRequest(
                        .write, slot: UInt32(slot), guest: GuestOffset(UInt64(at)), length: UInt64(length),
                        iovecs: list, iovecCount: 1))
            }
            for _ in 0..<slots { #expect(harness.wait()?.error == 0) }
        }
        for at in stride(from: 0, to: truth.count, by: 64 << 10) {
            let read = harness.read(at, 64 << 10)
            #expect(read.error == 0 && read.bytes == Array(truth[at..<at + 64 << 10]))
        }
        harness.engine.submit(BlockRequest(.flush, slot: 0))
        #expect(harness.wait()?.error == 0)
        try chain.closeAndUnlock()
        try images.run("qemu-img check -f qcow2 a.qcow2")
    }
}
