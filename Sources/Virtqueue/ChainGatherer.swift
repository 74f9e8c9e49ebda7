// Why this file exists: turns descriptors, one by one, into the list of host memory that a request is made of. It is
// the same for both ring formats and for indirect tables, and the first of the two places where a guest's address
// becomes a pointer. The hot half stays in registers: the rare half takes the gatherer by value and gives it back.
import Glibc

struct ChainGatherer: BitwiseCopyable {
    var iovecs: UnsafeMutablePointer<iovec>
    var count: Int32 = 0
    var capacity = Int32(ChainLimits.shortList)
    var readableCount: Int32 = 0
    var readableBytes: UInt64 = 0
    var writableBytes: UInt64 = 0
    var lastWritable: UnsafeMutablePointer<UInt8>?
    var fault: ChainFault = .none
    var longList: Int32 = -1
    /// Region of the last address: the next one is there too, nearly always.
    var hit: Int
    let memory: GuestMemorySnapshot
    let pool: ListPool

    @inline(__always)
    init(iovecs: UnsafeMutablePointer<iovec>, memory: GuestMemorySnapshot, pool: ListPool, hit: Int) {
        self.iovecs = iovecs
        self.memory = memory
        self.pool = pool
        self.hit = hit
    }

    /// Takes in one buffer.
    @inline(__always) mutating func add(_ address: UInt64, _ length: UInt32, isWritable: Bool) {
        let region = memory.regions + hit
        let offset = address &- region.pointee.guest.raw
        let size = region.pointee.size
        guard offset < size, UInt64(length) <= size &- offset, length > 0, count < capacity,
            isWritable || count == readableCount, fault == .none
        else {
            self = addSlowly(address, length, isWritable)
            return
        }
        append(region.pointee.host + Int(truncatingIfNeeded: offset), UInt64(length), isWritable)
    }

    @inline(__always)
    private mutating func append(_ host: UnsafeMutableRawPointer, _ length: UInt64, _ isWritable: Bool) {
        let bytes = Int(truncatingIfNeeded: length)
        iovecs[Int(count)] = iovec(iov_base: host, iov_len: bytes)
        count &+= 1
        if isWritable {
            writableBytes &+= length
            lastWritable = (host + (bytes &- 1)).assumingMemoryBound(to: UInt8.self)
        } else {
            readableCount &+= 1
            readableBytes &+= length
        }
    }

    /// Buffers that cross regions, are empty, out of order, outside the memory, or more than the short list takes.
    @inline(never) private func addSlowly(_ address: UInt64, _ length: UInt32, _ isWritable: Bool) -> Self {
        var result = self
        // An empty buffer is legal and nothing: its address need not exist.
        guard length > 0 else { return result }
        if !isWritable, count > readableCount, fault == .none { result.fault = .readableAfterWritable }
        guard result.fault == .none else {
            if isWritable { result.rememberLast(address, length) }
            return result
        }
        var at = address
        var left = UInt64(length)
        while left > 0 {
            guard let piece = memory.piece(at: at, length: left, hit: &result.hit) else {
                result.fault = .addressOutsideMemory
                break
            }
            guard result.makeRoom() else {
                result.fault = .tooManySegments
                break
            }
            result.append(piece.host, piece.length, isWritable)
            left &-= piece.length
            let (next, overflow) = at.addingReportingOverflow(piece.length)
            if overflow, left > 0 {
                result.fault = .addressOutsideMemory
                break
            }
            at = next
        }
        if result.fault != .none, isWritable { result.rememberLast(address, length) }
        return result
    }

    /// The request has failed, but its status byte may still be within reach.
    private mutating func rememberLast(_ address: UInt64, _ length: UInt32) {
        lastWritable = nil
        let (at, overflow) = address.addingReportingOverflow(UInt64(length) - 1)
        guard !overflow, let piece = memory.piece(at: at, length: 1, hit: &hit) else { return }
        lastWritable = piece.host.assumingMemoryBound(to: UInt8.self)
    }

    /// Room for one more iovec, in a long list when the short one is full.
    private mutating func makeRoom() -> Bool {
        if count < capacity { return true }
        guard longList < 0, !pool.free.isEmpty else { return false }
        longList = pool.free.take()
        let long = pool.list(longList)
        long.initialize(from: iovecs, count: Int(count))
        iovecs = long
        capacity = Int32(ChainLimits.iovecs)
        return true
    }

    /// The walk ends here: what follows is unknown, so no byte can be trusted to be the status.
    @inline(never) mutating func giveUp(_ why: ChainFault) {
        fault = why
        lastWritable = nil
    }

    /// Hands the result to the chain's record.
    @inline(__always) func finish(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        chain.pointee.iovecs = iovecs
        chain.pointee.readableCount = readableCount
        chain.pointee.writableCount = count &- readableCount
        chain.pointee.readableBytes = readableBytes
        chain.pointee.writableBytes = writableBytes
        chain.pointee.lastWritable = lastWritable
        chain.pointee.fault = fault
        chain.pointee.longList = longList
        chain.pointee.memory = memory
    }
}
