// Where the fields of a virtqueue are (virtio 1.3, sections 2.7 and 2.8; formats/virtio-blk) and how shared words are
// read and written: each once, with the ordering that the other side relies on.
import Synchronization

/// A descriptor as both ring formats store it, copied out of guest memory and never looked at there again.
struct Descriptor: BitwiseCopyable {
    var address: UInt64
    /// Length, then flags and next (split) or id and flags (packed).
    var word: UInt64

    @inline(__always) var length: UInt32 { UInt32(truncatingIfNeeded: word) }
    @inline(__always) var splitFlags: UInt16 { UInt16(truncatingIfNeeded: word >> 32) }
    @inline(__always) var splitNext: UInt16 { UInt16(truncatingIfNeeded: word >> 48) }
    @inline(__always) var packedID: UInt16 { UInt16(truncatingIfNeeded: word >> 32) }
    @inline(__always) var packedFlags: UInt16 { UInt16(truncatingIfNeeded: word >> 48) }
}

/// Names and numbers of the ring formats.
public enum RingLayout {
    public static let descriptorBytes = 16
    public static let usedElementBytes = 8

    public static let flagNext: UInt16 = 1
    public static let flagWrite: UInt16 = 2
    public static let flagIndirect: UInt16 = 4
    /// Packed rings: the two bits whose relation to the wrap counters says whose a descriptor is.
    public static let flagAvail: UInt16 = 1 << 7
    public static let flagUsed: UInt16 = 1 << 15

    /// Split ring: flags, idx, ring[size], used_event.
    public static let availIndexOffset = 2
    public static let availRingOffset = 4
    public static let availNoInterrupt: UInt16 = 1
    /// Split ring: flags, idx, ring[size] of (id, len), avail_event.
    public static let usedIndexOffset = 2
    public static let usedRingOffset = 4
    public static let usedNoNotify: UInt16 = 1

    /// Packed ring, the two event suppression structures: position and wrap counter, then flags.
    public static let eventBytes = 4
    public static let eventFlagsOffset = 2
    public static let eventEnable: UInt16 = 0
    public static let eventDisable: UInt16 = 1
    public static let eventDescriptor: UInt16 = 2
    public static let eventWrapBit: UInt16 = 1 << 15

    public static func availBytes(size: Int) -> Int { availRingOffset + 2 * size + 2 }
    public static func usedBytes(size: Int) -> Int { usedRingOffset + usedElementBytes * size + 2 }
}

/// Whether the other side asked to hear of a step from `old` to `new` by naming `event` (vring_need_event).
@inline(__always) package func needsEvent(_ event: UInt16, new: UInt16, old: UInt16) -> Bool {
    new &- event &- 1 < new &- old
}

@inline(__always) private func word16(_ place: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt16>> {
    place.assumingMemoryBound(to: Atomic<UInt16>.self)
}
@inline(__always) private func word64(_ place: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt64>> {
    place.assumingMemoryBound(to: Atomic<UInt64>.self)
}

@inline(__always) package func load16(_ place: UnsafeMutableRawPointer) -> UInt16 {
    UInt16(littleEndian: word16(place).pointee.load(ordering: .relaxed))
}
@inline(__always) package func acquire16(_ place: UnsafeMutableRawPointer) -> UInt16 {
    UInt16(littleEndian: word16(place).pointee.load(ordering: .acquiring))
}
@inline(__always) package func store16(_ place: UnsafeMutableRawPointer, _ value: UInt16) {
    word16(place).pointee.store(value.littleEndian, ordering: .relaxed)
}
@inline(__always) package func release16(_ place: UnsafeMutableRawPointer, _ value: UInt16) {
    word16(place).pointee.store(value.littleEndian, ordering: .releasing)
}
@inline(__always) package func load64(_ place: UnsafeMutableRawPointer) -> UInt64 {
    UInt64(littleEndian: word64(place).pointee.load(ordering: .relaxed))
}
@inline(__always) package func acquire64(_ place: UnsafeMutableRawPointer) -> UInt64 {
    UInt64(littleEndian: word64(place).pointee.load(ordering: .acquiring))
}
@inline(__always) package func store64(_ place: UnsafeMutableRawPointer, _ value: UInt64) {
    word64(place).pointee.store(value.littleEndian, ordering: .relaxed)
}
@inline(__always) package func release64(_ place: UnsafeMutableRawPointer, _ value: UInt64) {
    word64(place).pointee.store(value.littleEndian, ordering: .releasing)
}
/// Bytes have no order; used for marks in shared memory that a restarted process reads.
@inline(__always) func release8(_ place: UnsafeMutableRawPointer, _ value: UInt8) {
    place.assumingMemoryBound(to: Atomic<UInt8>.self).pointee.store(value, ordering: .releasing)
}

/// The barrier of every "tell the other side, then look again".
@inline(__always) package func fullFence() { atomicMemoryFence(ordering: .sequentiallyConsistent) }
