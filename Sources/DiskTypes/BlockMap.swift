// The seam between formats and I/O. A map answers where bytes are; it never reads or writes. When it lacks a table to
// answer with, it names the table, and the caller fetches it by whatever I/O it has.

/// A piece of metadata that a map needs before it can answer: read `length` bytes at `host` of file `file` and hand
/// them to `supply`.
@frozen public struct TableRead: Hashable, Sendable, BitwiseCopyable {
    /// Which layer of the chain lacks the table: 0 is the active image.
    public var layer: UInt16
    /// Which file to read, by its place in the chain's list of files.
    public var file: UInt16
    /// Where the table, or the part of it that is needed, begins in that file.
    public var host: HostOffset
    /// Bytes to read; fewer come where the file ends.
    public var length: UInt32
    /// The map's own name for the table, handed back by `supply`. Two reads of one table have equal tokens.
    public var token: UInt64

    /// A request for `length` bytes of a table. The fields are described above.
    @inlinable public init(layer: UInt16, file: UInt16, host: HostOffset, length: UInt32, token: UInt64) {
        self.layer = layer
        self.file = file
        self.host = host
        self.length = length
        self.token = token
    }
}

/// Why a range of the disk cannot be read although the image is open: its mapping breaks the format's rules.
/// The rest of the image stays readable.
@frozen public struct MapDamage: Equatable, Sendable, BitwiseCopyable {
    /// The rule that an entry breaks.
    @frozen public enum Reason: UInt8, Sendable, BitwiseCopyable {
        case reservedBits = 1
        case misaligned
        case beyondEndOfFile
        case overlapsMetadata
        case zeroFlagInVersion2
        case compressedInExternalData
        case badSubclusterBitmap
        case tableUnreadable
        case externalOffsetMismatch
        /// Not the image's fault: another program made its file shorter while it was in use.
        case fileWasCut
    }
    /// The rule that is broken.
    public var reason: Reason
    /// The layer whose mapping is broken: 0 is the active image.
    public var layer: UInt16
    /// The first byte of the disk that cannot be read.
    public var guest: GuestOffset
    /// Bytes of the guest's disk that the damage covers, from `guest` on, clipped to the question asked.
    public var length: UInt64
    /// The table that holds the broken entry (0 where it is the L1 table).
    public var table: HostOffset

    /// Damage of the `length` bytes from `guest` on.
    @inlinable public init(
        reason: Reason, layer: UInt16 = 0, guest: GuestOffset, length: UInt64, table: HostOffset
    ) {
        self.reason = reason
        self.layer = layer
        self.guest = guest
        self.length = length
        self.table = table
    }
}

/// The answer of a map. Plain bytes: the data path passes it around without reference counting.
@frozen public enum MapAnswer: Equatable, Sendable, BitwiseCopyable {
    /// Starts at the offset asked for; covers at least one byte and at most what was asked.
    case extent(Extent)
    /// Fetch this, `supply` it, ask again.
    case needs(TableRead)
    /// Reading here is an I/O error.
    case damaged(MapDamage)
}

/// The answer of a map to a write: whether the bytes may be put where they are.
@frozen public enum WriteAnswer: Equatable, Sendable, BitwiseCopyable {
    /// Plain data that nothing else refers to: overwrite it. Starts at the offset asked for.
    case inPlace(Extent)
    /// This many bytes from the offset asked for have no cluster of their own yet (none at all, a zero or compressed one,
    /// one that a snapshot shares, or only one of the backing file).
    case allocate(UInt64)
    /// Fetch this, `supply` it, ask again.
    case needs(TableRead)
    /// Writing here is an I/O error.
    case damaged(MapDamage)
}

/// Says where the bytes of one layer are. All methods may be called from any number of threads at once.
public protocol BlockMap: Sendable {
    /// Size of the layer's disk in bytes.
    var size: UInt64 { get }
    /// Where `length` (> 0) bytes at `guest` are; the range must lie inside `size`. Takes no lock.
    func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer
    /// Takes in the bytes of a table that `lookup` named. Fewer bytes than asked mean the file ended there.
    func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer)
}

extension MapDamage: CustomStringConvertible {
    /// The rule, and where on the disk and in which table it is broken: for messages.
    public var description: String {
        if reason == .fileWasCut { return "\(reason.words) (\(guest))" }
        return "\(reason.words) (\(guest), \(table.bytes == 0 ? "in the L1 table" : "in the table at \(table)"))"
    }
}

extension MapDamage.Reason {
    /// What is wrong, in words, without the place.
    public var words: String {
        switch self {
        case .reservedBits: "a mapping entry has reserved bits set"
        case .misaligned: "a mapping entry points to an address that is not cluster aligned"
        case .beyondEndOfFile: "a mapping entry points past the end of the file: the image is truncated"
        case .overlapsMetadata: "a mapping entry points into the image's own metadata"
        case .zeroFlagInVersion2: "a version 2 image has a zero cluster, which only version 3 knows"
        case .compressedInExternalData: "a compressed cluster in an image with an external data file"
        case .badSubclusterBitmap: "a subcluster bitmap contradicts itself"
        case .tableUnreadable: "a mapping table cannot be read"
        case .externalOffsetMismatch: "a cluster of the external data file is mapped to another offset than its own"
        case .fileWasCut: "the file was cut while it was in use, and its end is lost"
        }
    }
}
