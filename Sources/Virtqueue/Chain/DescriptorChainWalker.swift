// Turns descriptors, one by one, into the list of host memory that a request is made of: for both ring formats, for
// indirect tables, and as the one place where a guest's address becomes a buffer. What every buffer needs is six words,
// which stay in registers; what only rare buffers need is in the chain's record. The functions for rare buffers take
// the walker by value and return it: a walker whose address is taken would be in memory.
import Glibc

/// The state of a walk through one chain, between its first descriptor and `finish`.
@safe struct DescriptorChainWalker: BitwiseCopyable {
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
        unsafe cursor = unsafe list
        unsafe limit = unsafe list + ChainLimits.shortList
        unsafe firstWritable = unsafe list
        unsafe self.region = unsafe region
        unsafe chain.pointee.iovecs = unsafe list
        unsafe chain.pointee.fault = .none
        unsafe chain.pointee.slowSteps = 0
        unsafe chain.pointee.memory = memory
    }

    /// Adds one buffer of the guest; false when the walk must end, because the chain's structure is wrong.
    @inline(__always) mutating func add(
        _ address: UInt64, _ length: UInt32, isWritable: Bool, _ chain: UnsafeMutablePointer<DescriptorChain>,
        _ pool: ListPool
    ) -> Bool {
        let offset = unsafe address &- region.pointee.guest.raw
        let size = unsafe region.pointee.size
        // An empty buffer wraps around to a length that fits nowhere.
        guard offset < size, UInt64(length) &- 1 < size &- offset, unsafe cursor < limit,
            unsafe isWritable || cursor == firstWritable
        else {
            self = unsafe addSlowly(address, length, isWritable, chain, pool)
            return unsafe !chain.pointee.fault.isStructural
        }
        unsafe append(region.pointee.host + Int(truncatingIfNeeded: offset), UInt64(length), isWritable)
        return true
    }

    @inline(__always)
    private mutating func append(_ host: UnsafeMutableRawPointer, _ length: UInt64, _ isWritable: Bool) {
        unsafe cursor.pointee = unsafe iovec(iov_base: host, iov_len: Int(truncatingIfNeeded: length))
        unsafe cursor += 1
        if isWritable {
            writableBytes &+= length
        } else {
            unsafe firstWritable = unsafe cursor
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
        unsafe chain.pointee.slowSteps &+= 1
        guard unsafe chain.pointee.slowSteps <= ChainLimits.descriptors else { return unsafe givenUp(.endless, chain) }
        // An empty buffer is legal and nothing: its address need not exist.
        guard length > 0 else { return result }
        if !isWritable, unsafe cursor != firstWritable, unsafe chain.pointee.fault == .none {
            unsafe result.fail(.readableAfterWritable, chain)
        }
        if unsafe chain.pointee.fault == .none {
            unsafe result.addPieces(address, UInt64(length), isWritable, chain, pool)
        }
        if unsafe chain.pointee.fault != .none, isWritable { unsafe result.rememberLast(address, length, chain) }
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
            guard let piece = unsafe chain.pointee.memory.piece(at: at, length: left, region: &region) else {
                return unsafe fail(.addressOutsideMemory, chain)
            }
            guard unsafe makeRoom(chain, pool) else { return unsafe fail(.tooManySegments, chain) }
            unsafe append(piece.host, piece.length, isWritable)
            unsafe left &-= piece.length
            if left == 0 { return }
            // Addresses do not start again at 0.
            let (next, overflow) = unsafe at.addingReportingOverflow(piece.length)
            guard !overflow else { return unsafe fail(.addressOutsideMemory, chain) }
            at = next
        }
    }

    /// The last byte of the writable part, as far as the chain has been walked.
    @inline(__always) private var lastByte: UnsafeMutablePointer<UInt8>? {
        guard unsafe cursor != firstWritable else { return nil }
        let last = unsafe (cursor - 1).pointee
        return unsafe UnsafeMutablePointer(
            bitPattern: UInt(bitPattern: last.iov_base) &+ UInt(bitPattern: last.iov_len) &- 1)
    }

    /// Records the first fault of a chain. The walk goes on only to find the status byte.
    private mutating func fail(_ why: ChainFault, _ chain: UnsafeMutablePointer<DescriptorChain>) {
        unsafe chain.pointee.lastWritable = unsafe lastByte
        unsafe chain.pointee.fault = why
        unsafe limit = unsafe chain.pointee.iovecs
    }

    /// The request has failed; its status byte is the last byte of this buffer, if that is inside the memory.
    private mutating func rememberLast(
        _ address: UInt64, _ length: UInt32, _ chain: UnsafeMutablePointer<DescriptorChain>
    ) {
        unsafe chain.pointee.lastWritable = nil
        let (at, overflow) = address.addingReportingOverflow(UInt64(length) - 1)
        guard !overflow, let piece = unsafe chain.pointee.memory.piece(at: at, length: 1, region: &region) else {
            return
        }
        unsafe chain.pointee.lastWritable = unsafe piece.host.assumingMemoryBound(to: UInt8.self)
    }

    /// Room for one more iovec, in a long list when the short one is full.
    private mutating func makeRoom(_ chain: UnsafeMutablePointer<DescriptorChain>, _ pool: ListPool) -> Bool {
        if unsafe cursor < limit { return true }
        guard unsafe chain.pointee.longList < 0, !pool.free.isEmpty else { return false }
        let index = pool.free.take()
        let short = unsafe chain.pointee.iovecs
        let long = unsafe pool.list(index)
        let count = unsafe cursor - short
        unsafe long.initialize(from: short, count: count)
        unsafe firstWritable = unsafe long + (firstWritable - short)
        unsafe cursor = unsafe long + count
        unsafe limit = unsafe long + ChainLimits.iovecs
        unsafe chain.pointee.iovecs = unsafe long
        unsafe chain.pointee.longList = index
        return true
    }

    /// The walk ends here: what follows is unknown, so no byte can be trusted to be the status.
    @inline(never) func givenUp(_ why: ChainFault, _ chain: UnsafeMutablePointer<DescriptorChain>) -> Self {
        var result = self
        unsafe chain.pointee.fault = why
        unsafe chain.pointee.lastWritable = nil
        unsafe result.limit = unsafe chain.pointee.iovecs
        return result
    }

    /// A fault of the whole chain, whose buffers are all known.
    mutating func failWhole(_ why: ChainFault, _ chain: UnsafeMutablePointer<DescriptorChain>) {
        if unsafe chain.pointee.fault == .none { unsafe fail(why, chain) }
    }

    /// Writes the result to the chain's record.
    @inline(__always) func finish(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        let list = unsafe chain.pointee.iovecs
        unsafe chain.pointee.readableCount = unsafe distance(list, firstWritable)
        unsafe chain.pointee.writableCount = unsafe distance(firstWritable, cursor)
        unsafe chain.pointee.readableBytes = readableBytes
        unsafe chain.pointee.writableBytes = writableBytes
        if unsafe chain.pointee.fault == .none { unsafe chain.pointee.lastWritable = unsafe lastByte }
    }

    /// Iovecs between two positions, the second of which is not before the first: a shift, no signed division.
    @inline(__always) private func distance(
        _ from: UnsafeMutablePointer<iovec>, _ to: UnsafeMutablePointer<iovec>
    ) -> Int32 {
        unsafe Int32(
            truncatingIfNeeded: (UInt(bitPattern: to) &- UInt(bitPattern: from)) / UInt(MemoryLayout<iovec>.stride))
    }
}
