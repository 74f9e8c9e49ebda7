// Turns descriptors, one by one, into the list of host memory that a request is made of: for both ring formats, for
// indirect tables, and as the one place where a guest's address becomes a buffer. What every buffer needs is six words,
// which stay in registers; what only rare buffers need is in the chain's record. The functions for rare buffers take
// the walker by value and return it: a walker whose address is taken would be in memory.
import Glibc

/// The state of a walk through one chain, between its first descriptor and `finish`.
struct DescriptorChainWalker: BitwiseCopyable {
    /// Where the next iovec goes, and where room ends. After a fault there is no room, so every buffer is rare.
    var cursor: UnsafeMutablePointer<iovec>
    var limit: UnsafeMutablePointer<iovec>
    /// End of the readable part; the cursor itself as long as nothing is writable.
    var firstWritable: UnsafeMutablePointer<iovec>
    var readableBytes: UInt64 = 0
    var writableBytes: UInt64 = 0
    /// Region of the last address: the next one is there too, nearly always.
    var region: UnsafePointer<GuestRegion>

    /// Begins a chain in its slot's short list.
    @inline(__always) init(
        _ chain: UnsafeMutablePointer<DescriptorChain>, list: UnsafeMutablePointer<iovec>,
        memory: GuestMemorySnapshot, region: UnsafePointer<GuestRegion>
    ) {
        cursor = list
        limit = list + ChainLimits.shortList
        firstWritable = list
        self.region = region
        chain.pointee.iovecs = list
        chain.pointee.fault = .none
        chain.pointee.slowSteps = 0
        chain.pointee.memory = memory
    }

    /// Adds one buffer of the guest; false when the walk must end, because the chain's structure is wrong.
    @inline(__always) mutating func add(
        _ address: UInt64, _ length: UInt32, isWritable: Bool, _ chain: UnsafeMutablePointer<DescriptorChain>,
        _ pool: ListPool
    ) -> Bool {
        let offset = address &- region.pointee.guest.raw
        let size = region.pointee.size
        // An empty buffer wraps around to a length that fits nowhere.
        guard offset < size, UInt64(length) &- 1 < size &- offset, cursor < limit,
            isWritable || cursor == firstWritable
        else {
            self = addSlowly(address, length, isWritable, chain, pool)
            return !chain.pointee.fault.isStructural
        }
        append(region.pointee.host + Int(truncatingIfNeeded: offset), UInt64(length), isWritable)
        return true
    }

    @inline(__always)
    private mutating func append(_ host: UnsafeMutableRawPointer, _ length: UInt64, _ isWritable: Bool) {
        cursor.pointee = iovec(iov_base: host, iov_len: Int(truncatingIfNeeded: length))
        cursor += 1
        if isWritable {
            writableBytes &+= length
        } else {
            firstWritable = cursor
            readableBytes &+= length
        }
    }

    /// Buffers that cross regions, are empty, out of order, outside the memory, or more than the short list takes;
    /// and all that follow a fault.
    @inline(never) private func addSlowly(
        _ address: UInt64, _ length: UInt32, _ isWritable: Bool, _ chain: UnsafeMutablePointer<DescriptorChain>,
        _ pool: ListPool
    ) -> Self {
        var result = self
        // The fast half is bounded by the room in the list; this one counts.
        chain.pointee.slowSteps &+= 1
        guard chain.pointee.slowSteps <= ChainLimits.descriptors else { return givenUp(.endless, chain) }
        // An empty buffer is legal and nothing: its address need not exist.
        guard length > 0 else { return result }
        if !isWritable, cursor != firstWritable, chain.pointee.fault == .none {
            result.fail(.readableAfterWritable, chain)
        }
        if chain.pointee.fault == .none {
            result.addPieces(address, UInt64(length), isWritable, chain, pool)
        }
        if chain.pointee.fault != .none, isWritable { result.rememberLast(address, length, chain) }
        return result
    }

    /// Adds the pieces of host memory that the buffer lies in, one for each region.
    private mutating func addPieces(
        _ address: UInt64, _ length: UInt64, _ isWritable: Bool, _ chain: UnsafeMutablePointer<DescriptorChain>,
        _ pool: ListPool
    ) {
        var at = address
        var left = length
        while true {
            guard let piece = chain.pointee.memory.piece(at: at, length: left, region: &region) else {
                return fail(.addressOutsideMemory, chain)
            }
            guard makeRoom(chain, pool) else { return fail(.tooManySegments, chain) }
            append(piece.host, piece.length, isWritable)
            left &-= piece.length
            if left == 0 { return }
            // Addresses do not start again at 0.
            let (next, overflow) = at.addingReportingOverflow(piece.length)
            guard !overflow else { return fail(.addressOutsideMemory, chain) }
            at = next
        }
    }

    /// The last byte of the writable part, as far as the chain has been walked.
    @inline(__always) private var lastByte: UnsafeMutablePointer<UInt8>? {
        guard cursor != firstWritable else { return nil }
        let last = (cursor - 1).pointee
        return UnsafeMutablePointer(bitPattern: UInt(bitPattern: last.iov_base) &+ UInt(bitPattern: last.iov_len) &- 1)
    }

    /// Records the first fault of a chain. The walk goes on only to find the status byte.
    private mutating func fail(_ why: ChainFault, _ chain: UnsafeMutablePointer<DescriptorChain>) {
        chain.pointee.lastWritable = lastByte
        chain.pointee.fault = why
        limit = chain.pointee.iovecs
    }

    /// The request has failed; its status byte is the last byte of this buffer, if that is inside the memory.
    private mutating func rememberLast(
        _ address: UInt64, _ length: UInt32, _ chain: UnsafeMutablePointer<DescriptorChain>
    ) {
        chain.pointee.lastWritable = nil
        let (at, overflow) = address.addingReportingOverflow(UInt64(length) - 1)
        guard !overflow, let piece = chain.pointee.memory.piece(at: at, length: 1, region: &region) else { return }
        chain.pointee.lastWritable = piece.host.assumingMemoryBound(to: UInt8.self)
    }

    /// Room for one more iovec, in a long list when the short one is full.
    private mutating func makeRoom(_ chain: UnsafeMutablePointer<DescriptorChain>, _ pool: ListPool) -> Bool {
        if cursor < limit { return true }
        guard chain.pointee.longList < 0, !pool.free.isEmpty else { return false }
        let index = pool.free.take()
        let short = chain.pointee.iovecs
        let long = pool.list(index)
        let count = cursor - short
        long.initialize(from: short, count: count)
        firstWritable = long + (firstWritable - short)
        cursor = long + count
        limit = long + ChainLimits.iovecs
        chain.pointee.iovecs = long
        chain.pointee.longList = index
        return true
    }

    /// The walk ends here: what follows is unknown, so no byte can be trusted to be the status.
    @inline(never) func givenUp(_ why: ChainFault, _ chain: UnsafeMutablePointer<DescriptorChain>) -> Self {
        var result = self
        chain.pointee.fault = why
        chain.pointee.lastWritable = nil
        result.limit = chain.pointee.iovecs
        return result
    }

    /// A fault of the whole chain, whose buffers are all known.
    mutating func failWhole(_ why: ChainFault, _ chain: UnsafeMutablePointer<DescriptorChain>) {
        if chain.pointee.fault == .none { fail(why, chain) }
    }

    /// Writes the result to the chain's record.
    @inline(__always) func finish(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        let list = chain.pointee.iovecs
        chain.pointee.readableCount = distance(list, firstWritable)
        chain.pointee.writableCount = distance(firstWritable, cursor)
        chain.pointee.readableBytes = readableBytes
        chain.pointee.writableBytes = writableBytes
        if chain.pointee.fault == .none { chain.pointee.lastWritable = lastByte }
    }

    /// Iovecs between two positions, the second of which is not before the first: a shift, no signed division.
    @inline(__always) private func distance(
        _ from: UnsafeMutablePointer<iovec>, _ to: UnsafeMutablePointer<iovec>
    ) -> Int32 {
        Int32(truncatingIfNeeded: (UInt(bitPattern: to) &- UInt(bitPattern: from)) / UInt(MemoryLayout<iovec>.stride))
    }
}
