// What a range of an image is made of, in the words of qemu-img map. The JSON keys are these fields; compare -s
// compares them.

/// A run of guest bytes of one kind. `extents` prints them, `compare` and `convert` skip by them.
public struct BlockStatus: Equatable, Sendable {
    /// The first byte of the disk.
    public var start: UInt64
    /// Bytes; 0 only for the one entry of an empty list.
    public var length: UInt64
    /// Number of the layer that decided; 0 is the image itself.
    public var depth = 0
    /// Some layer has it; otherwise it reads as zeros because no layer does.
    public var isPresent = false
    /// It reads as zeros, as the tables or the file system say.
    public var isZero = false
    /// There are bytes to read (which may be known to be zeros).
    public var isData = false
    /// The bytes are compressed: `offset` is unknown.
    public var isCompressed = false
    /// Where it lies in the file number `file` of the chain.
    public var offset: UInt64?
    /// The number of the file that `offset` counts in.
    public var file: UInt16?
    /// Zero because the next layer is shorter, which only `compare -s` distinguishes.
    var isPastBacking = false
    /// The layer's tables map more than the file has allocated, so the file was asked too (see `Preallocation`).
    var asksFile = false

    /// There is something to read that may not be zero.
    var mustBeRead: Bool { isData && !isZero }

    /// A run that no layer has.
    public init(start: UInt64, length: UInt64) {
        self.start = start
        self.length = length
    }

    /// The first byte of the disk behind the run.
    public var end: UInt64 { start + length }

    /// Whether `next`, which starts where this ends, is more of the same.
    func continues(into next: BlockStatus) -> Bool {
        guard next.start == end, next.depth == depth, next.isPresent == isPresent, next.isZero == isZero,
            next.isData == isData, next.isCompressed == isCompressed, next.file == file
        else { return false }
        guard let offset else { return next.offset == nil }
        return next.offset == offset + length
    }

    /// What two images must have in common to be the same to the letter (compare -s).
    func isSameKind(as other: BlockStatus) -> Bool {
        (isPresent || isPastBacking) == (other.isPresent || other.isPastBacking) && isZero == other.isZero
            && isData == other.isData && isCompressed == other.isCompressed && asksFile == other.asksFile
            && (offset != nil && !isPastBacking) == (other.offset != nil && !other.isPastBacking)
    }
}
