// What offline verbs rely on: blocking and pipelined reads agree, and a walk covers its range.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import TestKit
import Testing

@Suite(.enabled(if: hasQemuImg, "needs qemu-img")) struct ChainReaderTests {
    static let size = 4 << 20

    private func open(_ images: Images) throws -> (ImageChain, [UInt8]) {
        let bytes = try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert -c -f raw -O qcow2 a.raw a.qcow2")
        return (try images.open("a.qcow2"), bytes)
    }

    @Test func aBlockingReadGivesTheDisk() throws {
        let images = try Images()
        let (chain, truth) = try open(images)
        let reader = try ChainReader(chain)
        #expect(try reader.read(GuestOffset(0), count: Self.size) == truth)
        #expect(try reader.read(GuestOffset(777), count: 99_999) == Array(truth[777..<100_776]))
    }

    @Test func aReadBeyondTheDiskThrows() throws {
        let images = try Images()
        let (chain, _) = try open(images)
        let reader = try ChainReader(chain)
        #expect(throws: ImageError.self) { try reader.read(GuestOffset(UInt64(Self.size)), count: 512) }
    }

    @Test func pipelinedReadsComeBackEachOnItsSlot() throws {
        let images = try Images()
        let (chain, truth) = try open(images)
        let reader = try ChainReader(chain, depth: 4)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4 << 16, alignment: 4096)
        defer { memory.deallocate() }
        for slot in 0..<4 {
            reader.submit(slot: slot, GuestOffset(UInt64(slot) << 20), memory + slot << 16, length: 65536)
        }
        // A blocking read between them steals nothing.
        #expect(try reader.read(GuestOffset(4096), count: 512) == Array(truth[4096..<4608]))
        var seen: [UInt32] = []
        while let finished = reader.waitFinished() {
            #expect(finished.error == 0)
            let slot = Int(finished.slot)
            seen.append(finished.slot)
            let bytes = Array(UnsafeRawBufferPointer(start: memory + slot << 16, count: 65536))
            #expect(bytes == Array(truth[(slot << 20)..<(slot << 20 + 65536)]))
        }
        #expect(seen.sorted() == [0, 1, 2, 3])
        #expect(reader.inFlight == 0)
    }

    @Test(arguments: [0, 1, 65535, 1_000_000], [UInt64.max, 1, 777_777])
    func aWalkCoversItsRangeWithoutGapOrOverlap(from: Int, length: UInt64) throws {
        let images = try Images()
        let (chain, _) = try open(images)
        var walker = ExtentWalker(chain, from: GuestOffset(UInt64(from)), length: length)
        var at = UInt64(from)
        var last: ExtentWalker.Step?
        while let step = walker.next() {
            #expect(step.guest.bytes == at && step.length > 0)
            at += step.length
            if case .extent(let a) = last, case .extent(let b) = step { #expect(!a.continues(into: b)) }
            last = step
        }
        #expect(at == UInt64(from) + min(length, UInt64(Self.size - from)))
    }

    @Test func aWalkNeedsNoMoreThanTwoTablesInMemory() throws {
        let images = try Images()
        try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert -S 0 -f raw -O qcow2 -o cluster_size=512 a.raw a.qcow2")
        var walker = ExtentWalker(try images.open("a.qcow2", l2CacheLimit: 1))
        var total: UInt64 = 0
        while let step = walker.next() {
            guard case .extent(let extent) = step else { throw TestFailure("damage: \(step)") }
            total += extent.length
        }
        #expect(total == UInt64(Self.size))
    }
}
