// Where the fields of a virtqueue are (virtio 1.3, sections 2.7 and 2.8; formats/virtio-blk), and the loads and stores
// of words that driver and device share, with the ordering that the other side relies on.
import Synchronization

/// A descriptor as both ring formats store it, copied out of guest memory and not read there again.
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

/// Names and numbers of the ring formats. Offsets and lengths are in bytes.
public enum RingLayout {
    /// A descriptor, in both formats (sections 2.7.5 and 2.8.13).
    public static let descriptorBytes = 16
    /// An element of a split ring's used ring: head and length (section 2.7.8).
    public static let usedElementBytes = 8

    /// VIRTQ_DESC_F_NEXT: the chain goes on.
    public static let flagNext: UInt16 = 1
    /// VIRTQ_DESC_F_WRITE: the device writes the buffer, else it reads it.
    public static let flagWrite: UInt16 = 2
    /// VIRTQ_DESC_F_INDIRECT: the buffer is a table of descriptors.
    public static let flagIndirect: UInt16 = 4
    /// Packed rings: the bits VIRTQ_DESC_F_AVAIL and VIRTQ_DESC_F_USED, compared with the wrap counters, say whether
    /// the driver or the device owns a descriptor (section 2.8.1).
    public static let flagAvail: UInt16 = 1 << 7
    /// See `flagAvail`.
    public static let flagUsed: UInt16 = 1 << 15

    /// avail.idx of a split ring (section 2.7.6: flags, idx, ring[size], used_event).
    public static let availIndexOffset = 2
    /// The first head of a split ring's available ring, a u16 for each entry.
    public static let availRingOffset = 4
    /// VIRTQ_AVAIL_F_NO_INTERRUPT, in avail.flags: the driver needs no signal.
    public static let availNoInterrupt: UInt16 = 1
    /// used.idx of a split ring (section 2.7.8: flags, idx, ring[size] of (id, len), avail_event).
    public static let usedIndexOffset = 2
    /// The first element of a split ring's used ring.
    public static let usedRingOffset = 4
    /// VIRTQ_USED_F_NO_NOTIFY, in used.flags: the device needs no kick.
    public static let usedNoNotify: UInt16 = 1

    /// A packed ring's event suppression structure: position and wrap counter, then flags (section 2.8.10). The driver
    /// has one, the device another.
    public static let eventBytes = 4
    /// The flags in it, a u16.
    public static let eventFlagsOffset = 2
    /// RING_EVENT_FLAGS_ENABLE: notify always.
    public static let eventEnable: UInt16 = 0
    /// RING_EVENT_FLAGS_DISABLE: never notify.
    public static let eventDisable: UInt16 = 1
    /// RING_EVENT_FLAGS_DESC: notify when the position in the structure is passed (EVENT_IDX).
    public static let eventDescriptor: UInt16 = 2
    /// The wrap counter, beside the position.
    public static let eventWrapBit: UInt16 = 1 << 15

    /// The available ring of a split ring with `size` entries, used_event included.
    public static func availBytes(size: Int) -> Int { availRingOffset + 2 * size + 2 }
    /// The used ring of a split ring with `size` entries, avail_event included.
    public static func usedBytes(size: Int) -> Int { usedRingOffset + usedElementBytes * size + 2 }
}

/// Whether the other side asked to be notified of a step from `old` to `new`, by naming `event` (vring_need_event;
/// sections 2.7.7 and 2.7.10).
@inline(__always) package func needsEvent(_ event: UInt16, new: UInt16, old: UInt16) -> Bool {
    new &- event &- 1 < new &- old
}

@inline(__always) private func word16(_ place: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt16>> {
    unsafe place.assumingMemoryBound(to: Atomic<UInt16>.self)
}
@inline(__always) private func word64(_ place: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe place.assumingMemoryBound(to: Atomic<UInt64>.self)
}

/// The word at `place`, without ordering.
@inline(__always) package func load16(_ place: UnsafeMutableRawPointer) -> UInt16 {
    unsafe UInt16(littleEndian: word16(place).pointee.load(ordering: .relaxed))
}
/// The word at `place`; what the other side wrote before it is visible.
@inline(__always) package func acquire16(_ place: UnsafeMutableRawPointer) -> UInt16 {
    unsafe UInt16(littleEndian: word16(place).pointee.load(ordering: .acquiring))
}
/// Writes the word at `place`, without ordering.
@inline(__always) package func store16(_ place: UnsafeMutableRawPointer, _ value: UInt16) {
    unsafe word16(place).pointee.store(value.littleEndian, ordering: .relaxed)
}
/// Writes the word at `place`; the other side that reads it sees all that was written before.
@inline(__always) package func release16(_ place: UnsafeMutableRawPointer, _ value: UInt16) {
    unsafe word16(place).pointee.store(value.littleEndian, ordering: .releasing)
}
/// The word at `place`, without ordering.
@inline(__always) package func load64(_ place: UnsafeMutableRawPointer) -> UInt64 {
    unsafe UInt64(littleEndian: word64(place).pointee.load(ordering: .relaxed))
}
/// The word at `place`; what the other side wrote before it is visible.
@inline(__always) package func acquire64(_ place: UnsafeMutableRawPointer) -> UInt64 {
    unsafe UInt64(littleEndian: word64(place).pointee.load(ordering: .acquiring))
}
/// Writes the word at `place`, without ordering.
@inline(__always) package func store64(_ place: UnsafeMutableRawPointer, _ value: UInt64) {
    unsafe word64(place).pointee.store(value.littleEndian, ordering: .relaxed)
}
/// Writes the word at `place`; the other side that reads it sees all that was written before.
@inline(__always) package func release64(_ place: UnsafeMutableRawPointer, _ value: UInt64) {
    unsafe word64(place).pointee.store(value.littleEndian, ordering: .releasing)
}
/// Writes the byte at `place`, with release order: for marks in shared memory that a restarted process reads.
@inline(__always) func release8(_ place: UnsafeMutableRawPointer, _ value: UInt8) {
    unsafe place.assumingMemoryBound(to: Atomic<UInt8>.self).pointee.store(value, ordering: .releasing)
}

/// The barrier between telling the other side something and reading what it has told.
@inline(__always) package func fullFence() { atomicMemoryFence(ordering: .sequentiallyConsistent) }
