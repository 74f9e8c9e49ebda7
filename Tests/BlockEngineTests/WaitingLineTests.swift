// Requests wait in lines for what others hold. A line stands still for ever when its first request waits for one that
// stands behind it: what is waited for must be free once nothing is in flight, or have a line of its own.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import TestKit
import Testing

@Suite(.timeLimit(.minutes(5)))
struct WaitingLineTests {
    private static let cluster = 2 << 20

    /// An overlay of large clusters, of which few allocating writes at a time have room, over a compressed image whose
    /// clusters are few at a time, too.
    private static func chain(_ images: Images, backingCluster: String, clusters: Int) throws -> ImageChain {
        try images.run(
            """
            for i in $(seq \(clusters)); do yes "line $i" | head -c 2M; done >a.raw
            qemu-img convert -c -f raw -O qcow2 -o cluster_size=\(backingCluster) a.raw b.qcow2
            qemu-img create -q -f qcow2 -o cluster_size=2M -b b.qcow2 -F qcow2 a.qcow2
            """)
        return try images.open("a.qcow2", writable: true)
    }

    @Test("Copies of large clusters over compressed ones all end")
    func copies() throws {
        let images = try Images()
        let (slots, clusters) = (64, 120)
        let chain = try Self.chain(images, backingCluster: "64k", clusters: clusters)
        let harness = try EngineHarness(chain, slots: slots)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 7, 4096)
        func begin(_ cluster: Int, in slot: Int) {
            let list = harness.kept([iovec(iov_base: memory, iov_len: 4096)], slot: slot)
            harness.engine.submit(
                BlockRequest(
                    .write, slot: UInt32(slot), guest: GuestOffset(UInt64(cluster * Self.cluster + 8192)), length: 4096,
                    iovecs: list, iovecCount: 1))
        }
        for slot in 0..<slots { begin(slot, in: slot) }
        var started = slots
        for done in 0..<clusters {
            let finished = try #require(harness.wait(), "stuck after \(done) of \(clusters)")
            #expect(finished.error == 0)
            if started < clusters {
                begin(started, in: Int(finished.slot))
                started += 1
            }
        }
        try chain.closeAndUnlock()
        try images.run(
            """
            head -c 4096 /dev/zero | tr '\\000' '\\007' >sevens
            for i in $(seq 0 \(clusters - 1)); do
                dd if=sevens of=a.raw bs=4096 conv=notrunc status=none oseek=$((i * 512 + 2))
            done
            qemu-img compare -f qcow2 -F raw a.qcow2 a.raw
            """)
    }

    @Test(
        "Writes to a cluster that is being copied, and reads of compressed ones, all end",
        arguments: 1...6 as ClosedRange<UInt64>)
    func mixed(seed: UInt64) throws {
        let images = try Images()
        let (slots, clusters) = (64, 24)
        let chain = try Self.chain(images, backingCluster: "2M", clusters: clusters)
        let harness = try EngineHarness(chain, slots: slots)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: slots * 65536, alignment: 4096)
        defer { memory.deallocate() }
        var random = SeededRandom(seed)
        func begin(_ slot: Int) {
            let place = memory + slot * 65536
            let cluster = Int.random(in: 0..<clusters, using: &random)
            if Bool.random(using: &random) {
                // Small writes, one after the other, most of them into clusters that others write, too.
                let list = harness.kept([iovec(iov_base: place, iov_len: 4096)], slot: slot)
                let at = cluster * Self.cluster + Int.random(in: 0..<512, using: &random) * 4096
                harness.engine.submit(
                    BlockRequest(
                        .write, slot: UInt32(slot), guest: GuestOffset(UInt64(at)), length: 4096, iovecs: list,
                        iovecCount: 1))
            } else {
                harness.engine.submitRead(
                    slot: slot, guest: GuestOffset(UInt64(cluster * Self.cluster)), buffer: place, length: 65536)
            }
        }
        memset(memory, 5, slots * 65536)
        for slot in 0..<slots { begin(slot) }
        var started = slots
        for done in 0..<600 {
            let finished = try #require(harness.wait(), "stuck after \(done), seed \(seed)")
            #expect(finished.error == 0)
            if started < 600 {
                begin(Int(finished.slot))
                started += 1
            }
        }
        try chain.closeAndUnlock()
        try images.run("qemu-img check -f qcow2 a.qcow2")
    }
}
