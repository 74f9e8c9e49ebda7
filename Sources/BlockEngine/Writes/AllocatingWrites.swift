// Writes that allocate, on their way: each has leave to write some clusters, perhaps a buffer in which
// new bytes meet old ones, and is over only when the mapping has changed. All of it exists before the first request.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import QCOW2
import SystemPackage

/// One allocating write.
struct AllocatingRequest: TableRecord {
    typealias Index = AllocationIndex

    var ticket: AllocatingWrite?
    var request = RequestIndex.none
    /// Where in the request its bytes begin, how many they are, and where in the ticket's units they go.
    var at = 0
    var length = 0
    var inside = 0
    /// Zeros instead of the request's bytes.
    var isZeros = false
    /// As large as a cluster; made when first needed, and kept.
    var buffer: UnsafeMutableRawPointer?

    init() {}
}

/// Confined to its engine's thread.
final class Allocations {
    let writer: ImageWriter
    let client: WriterClient
    let records: RecordTable<AllocatingRequest>
    let count: Int
    let clusterSize: Int
    var free: FreeList<AllocationIndex>
    /// Requests that wait until something changes elsewhere, and those whose flush is under way.
    var waiting = IndexQueue<Request>()
    var flushing = IndexQueue<Request>()
    var isPollArmed = false
    /// The poll's eventfd was signalled because no request waits any more.
    var isPollEnding = false

    /// Buffers of all allocations together.
    private static let bufferBytes = 16 << 20

    /// Nil for a chain whose mapping never changes.
    init?(_ chain: ImageChain, requests: Int) throws(ImageError) {
        guard let writer = chain.writer else { return nil }
        do throws(Errno) { client = try writer.addClient() } catch {
            throw ImageError(.system, "cannot start the image's writer: \(error)", number: error.rawValue)
        }
        self.writer = writer
        clusterSize = chain.clusterSize(ofLayer: 0)
        count = min(requests, max(2, min(64, Self.bufferBytes / clusterSize)))
        records = RecordTable(count: count, of: AllocatingRequest())
        free = FreeList<AllocationIndex>(count: count)
    }

    func end() {
        writer.leave(client)
        for i in 0..<count { records[AllocationIndex(i)].buffer?.deallocate() }
        records.deallocate()
        free.free()
    }

    func buffer(_ index: AllocationIndex) -> UnsafeMutableRawPointer {
        if let buffer = records[index].buffer { return buffer }
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: clusterSize, alignment: 4096)
        records[index].buffer = buffer
        return buffer
    }

    /// Something changed that others may wait for.
    var hasWaiters: Bool { !waiting.isEmpty || !flushing.isEmpty }
}
