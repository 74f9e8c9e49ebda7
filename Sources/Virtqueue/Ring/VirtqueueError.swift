// What can be wrong with a queue before it runs (thrown by the control path), while it runs (the queue is marked
// broken, with the reason), and with one chain (its request alone fails). An enumeration for each.

/// Why a queue or the guest's memory cannot be set up as asked.
public enum VirtqueueError: Error, Equatable, Sendable {
    /// No virtqueue has this number of entries.
    case badSize(Int)
    /// A part of the ring is not wholly inside one region of the guest's memory.
    case ringOutsideMemory(RingPart)
    /// A part of the ring has not the alignment that virtio asks for.
    case ringMisaligned(RingPart)
    /// More than `GuestMemory.maxRegions` regions.
    case tooManyRegions(Int)
    /// The region at this address is empty, or its last byte has no address.
    case regionOverflows(GuestAddress)
    /// The region at this address has bytes in common with another.
    case regionsOverlap(GuestAddress)
    /// The shared memory of in-flight records is too small, damaged, or another queue's; the text says which.
    case badInflightRegion(String)
    /// The ring has no such position to start at.
    case badBase(UInt32)
    /// Requests are in flight, so the queue cannot start.
    case busy
}

/// The areas of a virtqueue (virtio 1.3, section 2.6); the raw value is the name in messages.
public enum RingPart: String, Sendable {
    /// Descriptor table, or packed ring.
    case descriptors = "descriptor area"
    /// Available ring, or the driver's event suppression.
    case driver = "driver area"
    /// Used ring, or the device's event suppression.
    case device = "device area"
}

extension VirtqueueError: CustomStringConvertible {
    /// One sentence, without an end stop, for a log or a message.
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

/// Damage after which a ring cannot be read any further. The queue takes no more requests until it is started anew;
/// what is in flight still completes, and other queues are not affected.
@frozen public enum RingError: UInt8, Sendable, BitwiseCopyable {
    /// The ring is sound.
    case none
    /// avail.idx ran further ahead than the ring has entries.
    case availOverrun
    /// An available entry names a descriptor that does not exist.
    case headOutOfRange
    /// More buffers are outstanding than the ring has entries.
    case overcommitted
    /// Packed: a chain that goes once around the ring has no end, so no buffer id either.
    case endlessChain
    /// The shared in-flight record contradicts the ring or itself.
    case inflightRecord

    /// What the damage is, for a log: a phrase.
    public var message: String {
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
    /// The chain can be decoded.
    case none
    // The next four are found in a buffer: the walk goes on, to find the byte where the status belongs.
    /// Some byte of a buffer has no memory.
    case addressOutsideMemory
    /// A buffer to be read is behind one to be written.
    case readableAfterWritable
    /// More buffers than `ChainLimits.segments` and two, or no long list is left.
    case tooManySegments
    /// A descriptor names an indirect table and has a next one.
    case indirectWithNext
    // The others are found in the structure: what follows is unknown, and so is the status byte.
    /// `next` is outside its table.
    case nextOutOfRange
    /// The chain has no end that was reached in `ChainLimits.descriptors` steps.
    case endless
    /// An indirect table names another.
    case indirectInIndirect
    /// An indirect table is empty, longer than `ChainLimits.indirectEntries`, or no whole number of entries.
    case indirectLength
    /// An indirect table, although INDIRECT_DESC was not negotiated.
    case indirectNotNegotiated
    /// Some entry of an indirect table has no memory.
    case indirectOutsideMemory

    /// Whether the walk could not reach the end of the chain.
    @inlinable public var isStructural: Bool { rawValue >= ChainFault.nextOutOfRange.rawValue }
}
