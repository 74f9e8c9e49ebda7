// A request costs no heap allocation, on either kind of ring and however the driver lays it out. A worker that
// allocates takes the allocator's locks, and its time is no longer its own.
import CountAllocations
import DiskTypes
import Glibc
import Testing
import Virtqueue
import VirtqueueMock

@Suite(.enabled(if: qblk_counts_allocations() != 0, "needs a build without sanitizer"))
struct AllocationTests {
    /// One way to publish requests.
    struct Way: CustomTestStringConvertible, Sendable {
        let kind: Kind
        let isIndirect: Bool
        /// Pieces that the data is cut into: more than a chain's own list takes needs one of the queue's long lists.
        let pieces: Int
        var testDescription: String { "\(kind) \(isIndirect ? "indirect" : "direct") \(pieces)" }
    }
    static let ways = Kind.allCases.flatMap { kind in
        [1, 40].flatMap { pieces in
            [false, true].map { Way(kind: kind, isIndirect: $0, pieces: pieces) }
        }
    }

    @Test func theCounterSeesWhatSwiftAllocates() {
        var kept: [[UInt64]] = []
        let before = qblk_allocations()
        for i in 1...10 { kept.append(Array(repeating: 7, count: i * 100)) }
        #expect(qblk_allocations() >= before + 10)
        #expect(kept.count == 10)
    }

    @Test func theCounterSeesAlignedMemory() {
        let before = qblk_allocations()
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 8192, alignment: 4096)
        explicit_bzero(memory, 8192)
        memory.deallocate()
        #expect(qblk_allocations() == before + 1)
    }

    /// A worker's turn: what is there is taken, decoded, answered and published.
    private func turn(_ queue: inout Virtqueue, _ disk: VirtioBlkDisk) -> Int {
        var count = 0
        queue.disableKicks()
        while let chain = queue.pop() {
            switch VirtioBlk.decode(chain, disk) {
            case .request: queue.push(chain, written: VirtioBlk.finish(chain, .ok))
            case .answered(let written): queue.push(chain, written: written)
            }
            count += 1
        }
        _ = queue.publish()
        _ = queue.enableKicks()
        return count
    }

    /// Allocations of this thread in 200 turns of four requests each, the driver's own not counted. Before that come ten
    /// turns in which the runtime may make what it makes once.
    private func allocations(_ way: Way, _ request: [MockBuffer], _ harness: QueueHarness, _ disk: VirtioBlkDisk)
        -> UInt
    {
        var total: UInt = 0
        var served = 0
        request.withUnsafeBufferPointer { request in
            for round in 0..<210 {
                for _ in 0..<4 where harness.driver.publish(request, indirect: way.isIndirect) == nil { return }
                let before = qblk_allocations()
                served += turn(&harness.queue, disk)
                if round >= 10 { total += qblk_allocations() - before }
                while harness.driver.nextUsedBuffer() != nil {}
            }
        }
        #expect(served == 840, "the driver has no room: nothing was measured")
        return total
    }

    @Test(arguments: ways, [0, 1, 4, 8, 11, 13, 99] as [UInt32])
    func aRequestAllocatesNothing(way: Way, type: UInt32) throws {
        let harness = try QueueHarness(way.kind, size: 256, tableEntries: 64)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20, serial: "serial-1"))
        let isRead = type == 0 || type == 8
        let data = type == 11 || type == 13 ? 16 : way.pieces * 512
        let parts = try harness.request(type: type, data: data)
        let piece = data / way.pieces
        let cut = (0..<way.pieces).map { i in
            let length = i == way.pieces - 1 ? data - piece * i : piece
            return MockBuffer(parts.data + UInt64(piece * i), UInt32(length), isWritable: isRead)
        }
        let total = allocations(way, [parts.buffers[0]] + cut + [parts.buffers[2]], harness, disk)
        #expect(total == 0)
    }
}
