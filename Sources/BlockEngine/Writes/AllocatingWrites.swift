// Writes that allocate, on their way: each has leave to write some clusters, perhaps a buffer in which new bytes meet old
// ones, and is over only when the mapping has changed. All of it exists before the first request.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import QCOW2
import SystemPackage

/// One allocating write.
@safe struct AllocatingRequest: TableRecord {
    typealias Index = AllocationIndex

    enum State: UInt8, BitwiseCopyable {
        case free
        /// Copy-on-write: the old bytes of its clusters are read into its buffer.
        case readingOld
        /// Its bytes are on their way to their new place.
        case writing
        /// The bytes are there, or an errno says why not: the mapping changes.
        case linking
    }

    var state: State = .free
    var granted: AllocatingWrite?
    var request = RequestIndex.none
    /// Where in the request its bytes begin, how many they are, and where in the units of the write they go.
    var at = 0
    var length = 0
    var inside = 0
    /// Zeros instead of the request's bytes.
    var isZeros = false
    /// It did not end in the call in which it began: other requests may have seen that its clusters are taken, and wait.
    var mayBeAwaited = false
    /// As large as a cluster; made when first needed, and kept.
    var buffer: UnsafeMutableRawPointer?

    init() {}
}

/// What the engine must do next for an allocating write.
@safe enum AllocationStep {
    /// Read what the guest sees at `guest` into the buffer; then `oldBytesRead` says what comes next.
    case readOld(guest: GuestOffset, length: UInt64, into: UnsafeMutableRawPointer)
    /// Write the request's memory from its byte `at` on as it is.
    case writeMemory(at: Int, length: Int, host: UInt64)
    /// Write a buffer.
    case writeBuffer(UnsafeMutableRawPointer, length: Int, host: UInt64)
}

/// The allocating writes of an engine. Confined to its engine's thread.
final class AllocatingWrites {
    let writer: ImageWriter
    let client: WriterClient
    let count: Int
    let clusterSize: Int
    private let chain: ImageChain
    private let records: RecordTable<AllocatingRequest>
    private var free: FreeList<AllocationIndex>
    /// Requests that wait until another write of this engine ends.
    var waitingForPlace = IndexQueue<Request>()
    /// Requests that wait until something changes elsewhere, and those whose flush is under way.
    var waiting = IndexQueue<Request>()
    var flushing = IndexQueue<Request>()
    var isPollArmed = false
    /// The poll's eventfd was signalled because no request waits any more.
    var isPollEnding = false

    /// Buffers of all allocations together, in bytes.
    private static let bufferBytes = 16 << 20

    /// Nil for a chain whose mapping never changes.
    init?(_ chain: ImageChain, requests: Int) throws(ImageError) {
        guard let writer = chain.writer else { return nil }
        do throws(Errno) { client = try writer.addClient() } catch {
            throw ImageError(.system, "cannot start the image's writer: \(error)", number: error.rawValue)
        }
        self.writer = writer
        self.chain = chain
        clusterSize = chain.clusterSize(ofLayer: 0)
        count = min(requests, max(2, min(64, Self.bufferBytes / clusterSize)))
        records = RecordTable(count: count, of: AllocatingRequest())
        free = FreeList<AllocationIndex>(count: count)
    }

    func end() {
        writer.leave(client)
        for i in 0..<count { unsafe records[AllocationIndex(i)].buffer?.deallocate() }
        records.deallocate()
        free.free()
    }

    /// Whether another one can begin.
    var canBegin: Bool { free.available > 0 }
    /// Something changed that others may wait for.
    var hasWaiters: Bool { !waiting.isEmpty || !flushing.isEmpty }

    // MARK: states

    /// A write begins: up to `wanted` bytes of the request, whose byte `at` is at `guest` of the disk.
    func begin(
        _ granted: AllocatingWrite, _ request: RequestIndex, guest: UInt64, at: Int, wanted: UInt64, isZeros: Bool
    ) -> AllocationIndex {
        let index = free.take()
        let inside = guest &- granted.guest.bytes
        records[index].state = granted.fill == .copy ? .readingOld : .writing
        records[index].granted = granted
        records[index].request = request
        records[index].at = at
        records[index].inside = Int(truncatingIfNeeded: inside)
        records[index].length = Int(truncatingIfNeeded: min(wanted, granted.length &- inside))
        records[index].isZeros = isZeros
        records[index].mayBeAwaited = false
        return index
    }

    /// How many bytes of its request a write takes.
    func length(of index: AllocationIndex) -> Int { records[index].length }

    /// What a write that has just begun does first. `memory`: its request's; `isStraight`: it can go to the disk as it is.
    func firstStep(_ index: AllocationIndex, _ memory: RequestMemory, isStraight: Bool) -> AllocationStep {
        guard let granted = records[index].granted else {
            return unsafe .writeBuffer(buffer(index), length: 0, host: 0)
        }
        switch granted.fill {
        case .none:
            let inside = records[index].inside
            if isStraight {
                return .writeMemory(
                    at: records[index].at, length: records[index].length, host: granted.host.bytes &+ UInt64(inside))
            }
            bringBytes(index, memory)
            return writeBuffer(index, granted, from: inside, records[index].length)
        case .zero:
            unsafe memset(buffer(index), 0, Int(granted.length))
            bringBytes(index, memory)
            return writeBuffer(index, granted, from: 0, Int(granted.length))
        case .copy:
            records[index].mayBeAwaited = true
            let old = unsafe buffer(index)
            let length = min(granted.length, chain.size &- granted.guest.bytes)
            if length < granted.length { unsafe memset(old + Int(length), 0, Int(granted.length &- length)) }
            return unsafe .readOld(guest: granted.guest, length: length, into: old)
        }
    }

    /// The old bytes are in the buffer: the new ones come over them, and all goes out. Nil: the write is over already.
    func oldBytesRead(_ index: AllocationIndex, _ memory: RequestMemory) -> AllocationStep? {
        guard records[index].state == .readingOld, let granted = records[index].granted else { return nil }
        records[index].state = .writing
        bringBytes(index, memory)
        return writeBuffer(index, granted, from: 0, Int(granted.length))
    }

    /// A transfer carries the bytes: the write ends in another call than the one in which it began.
    func isSent(_ index: AllocationIndex) { records[index].mayBeAwaited = true }

    /// The request that a write is of.
    func request(of index: AllocationIndex) -> RequestIndex { records[index].request }

    /// The bytes are in the file, or an errno says why not: the mapping changes, and the write is over. Whether other
    /// requests of this worker may wait for its clusters.
    func link(_ index: AllocationIndex, isWritten: Bool) -> Bool {
        guard let granted = records[index].granted else { return false }
        records[index].state = .linking
        records[index].granted = nil
        writer.finish(granted, isWritten: isWritten, by: client)
        records[index].state = .free
        free.give(index)
        return records[index].mayBeAwaited
    }

    // MARK: buffers

    private func buffer(_ index: AllocationIndex) -> UnsafeMutableRawPointer {
        if let buffer = unsafe records[index].buffer { return unsafe buffer }
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: clusterSize, alignment: 4096)
        unsafe records[index].buffer = unsafe buffer
        return unsafe buffer
    }

    private func bringBytes(_ index: AllocationIndex, _ memory: RequestMemory) {
        let place = unsafe buffer(index) + records[index].inside
        if records[index].isZeros {
            unsafe memset(place, 0, records[index].length)
        } else {
            unsafe memory.copyOut(place, at: records[index].at, length: records[index].length)
        }
    }

    private func writeBuffer(
        _ index: AllocationIndex, _ granted: AllocatingWrite, from: Int, _ length: Int
    ) -> AllocationStep {
        // A data file of its own is not made longer than the disk.
        let end = Int(clamping: chain.size &- granted.guest.bytes)
        let count = chain.layers[0].dataFile == chain.layers[0].metadataFile ? length : min(length, end &- from)
        return unsafe .writeBuffer(buffer(index) + from, length: count, host: granted.host.bytes &+ UInt64(from))
    }
}
