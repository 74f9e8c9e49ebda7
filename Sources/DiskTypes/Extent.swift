// The one currency between the maps (which say where bytes are) and everybody who moves, prints or tables them: the
// engine, `extents`, `convert`, device-mapper.

/// What a range of guest bytes is made of, in one layer or in a whole chain.
@frozen public enum ExtentKind: UInt8, Sendable, BitwiseCopyable {
    /// Nothing here: the next layer of the backing chain says, or zeros where there is none.
    case unallocated
    /// Nothing here, though a host cluster is kept for it (extended L2: allocated cluster, unallocated subclusters).
    case unallocatedReserved
    /// Reads as zeros; no host cluster.
    case zero
    /// Reads as zeros; a host cluster is kept.
    case zeroAllocated
    /// Plain bytes at `host`.
    case data
    /// One deflated or zstd cluster: `hostLength` bytes at `host` inflate to the whole guest cluster.
    case compressed

    /// The range reads as zeros whatever lies below it.
    @inlinable public var isZero: Bool { self == .zero || self == .zeroAllocated }
    /// This layer has no say: the backing file's bytes show through.
    @inlinable public var isUnallocated: Bool { self == .unallocated || self == .unallocatedReserved }
}

/// A run of guest bytes of one kind that is contiguous on the host too.
///
/// Compressed extents cover bytes of one cluster only: `clusterStart` is where that cluster begins on the guest's
/// disk, `host`/`hostLength` locate the compressed bytes (`hostLength` is an upper bound, rounded to sectors).
@frozen public struct Extent: Equatable, Sendable, BitwiseCopyable {
    /// Where the extent begins on the disk.
    public var guest: GuestOffset
    /// Bytes of guest address space; never 0.
    public var length: UInt64
    /// What the range is made of.
    public var kind: ExtentKind
    /// Index of the layer that decided: 0 is the active image, 1 its backing file, and so on.
    public var layer: UInt16
    /// Index of the file that holds `host`, in the chain's list of files.
    public var file: UInt16
    /// Where the bytes are. Meaningful for data, compressed, zeroAllocated and unallocatedReserved.
    public var host: HostOffset
    /// Compressed only: how many bytes to read at `host` at most.
    public var hostLength: UInt32
    /// Compressed only: first guest byte of the cluster the stream inflates to.
    public var clusterStart: GuestOffset

    /// An extent of `length` (> 0) bytes. Fields that the kind has no use for are 0.
    @inlinable public init(
        guest: GuestOffset, length: UInt64, kind: ExtentKind, layer: UInt16 = 0, file: UInt16 = 0,
        host: HostOffset = HostOffset(0), hostLength: UInt32 = 0, clusterStart: GuestOffset = GuestOffset(0)
    ) {
        self.guest = guest
        self.length = length
        self.kind = kind
        self.layer = layer
        self.file = file
        self.host = host
        self.hostLength = hostLength
        self.clusterStart = clusterStart
    }

    /// The first byte of the disk behind the extent.
    @inlinable public var end: GuestOffset { guest + length }

    /// Whether the kind's host position moves along with the guest position.
    @inlinable public var hasHostBytes: Bool {
        kind == .data || kind == .zeroAllocated || kind == .unallocatedReserved
    }

    /// True when `next` starts where this one ends, on the guest and (where it has bytes there) on the host, and
    /// both may be one extent. Compressed clusters never merge: each is a stream of its own.
    @inlinable public func continues(into next: Extent) -> Bool {
        guard next.guest == end, next.kind == kind, next.layer == layer, kind != .compressed else { return false }
        guard hasHostBytes else { return true }
        return next.file == file && next.host == host + length
    }
}
