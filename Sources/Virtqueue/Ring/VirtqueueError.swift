// What can be wrong with a queue before it runs (the control path throws it), while it runs (the queue is marked
// broken and says why), and with one chain (its request alone fails). Three lists, one place.

/// Why a queue or the guest's memory cannot be set up as asked.
public enum VirtqueueError: Error, Equatable, Sendable {
    case badSize(Int)
    /// A part of the ring is not wholly inside one region of the guest's memory.
    case ringOutsideMemory(RingPart)
    case ringMisaligned(RingPart)
    case tooManyRegions(Int)
    case regionOverflows(GuestAddress)
    case regionsOverlap(GuestAddress)
    /// The shared memory of in-flight records is too small, or another queue's.
    case badInflightRegion(String)
    case badBase(UInt32)
    /// Requests are in flight.
    case busy
}

public enum RingPart: String, Sendable {
    case descriptors = "descriptor area"
    case driver = "driver area"
    case device = "device area"
}

extension VirtqueueError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .badSize(let size): "a virtqueue cannot have \(size) entries"
        case .ringOutsideMemory(let part): "the \(part.rawValue) of a virtqueue is outside the guest's memory"
        case .ringMisaligned(let part): "the \(part.rawValue) of a virtqueue is misaligned"
        case .tooManyRegions(let count): "\(count) memory regions, more than \(GuestMemory.maxRegions)"
        case .regionOverflows(let at): "the memory region at \(hexadecimal(at.raw)) is empty or overflows"
        case .regionsOverlap(let at): "the memory region at \(hexadecimal(at.raw)) overlaps another"
        case .badInflightRegion(let why): "the in-flight record of a virtqueue is unusable: \(why)"
        case .busy: "a virtqueue cannot start while requests are in flight"
        case .badBase(let base): "a virtqueue cannot start at \(hexadecimal(UInt64(base)))"
        }
    }
    private func hexadecimal(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
}

/// Damage that leaves no sense in reading a ring on. The queue takes no more requests until it is started anew; what
/// is in flight still completes, and other queues do not notice.
@frozen public enum RingError: UInt8, Sendable, BitwiseCopyable {
    case none
    /// avail.idx ran further ahead than the ring has entries.
    case availOverrun
    /// An available entry names a descriptor that does not exist.
    case headOutOfRange
    /// More buffers are outstanding than the ring has entries.
    case overcommitted
    /// Packed: a chain that goes once around the ring has no end, so no buffer id either.
    case endlessChain
    /// The shared in-flight record was scribbled over.
    case inflightRecord

    public var words: String {
        switch self {
        case .none: "sound"
        case .availOverrun: "the available index ran ahead of the ring"
        case .headOutOfRange: "an available entry names a descriptor outside the ring"
        case .overcommitted: "more buffers are outstanding than the ring has entries"
        case .endlessChain: "a descriptor chain has no end"
        case .inflightRecord: "the shared record of requests in flight is damaged"
        }
    }
}

/// What is wrong with one chain. Its request fails; the queue goes on.
@frozen public enum ChainFault: UInt8, Sendable, BitwiseCopyable {
    case none
    // Found in a buffer: the walk goes on, to find the byte where the status belongs.
    case addressOutsideMemory
    case readableAfterWritable
    case tooManySegments
    case indirectWithNext
    // Found in the structure: what follows is unknown, and so is the status byte.
    case nextOutOfRange
    case endless
    case indirectInIndirect
    case indirectLength
    case indirectNotNegotiated
    case indirectOutsideMemory

    /// Whether the walk could not reach the end of the chain.
    @inlinable public var isStructural: Bool { rawValue >= ChainFault.nextOutOfRange.rawValue }
}
