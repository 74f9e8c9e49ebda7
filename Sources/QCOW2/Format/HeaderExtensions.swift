// What follows the fixed header inside the first cluster: typed extensions and the backing file's name. Unknown
// extensions are kept for a later rewrite; known ones may not lie about their length.

public import DiskTypes

/// The variable part of the header (specification: "Header extensions").
public struct HeaderExtensions: Sendable {
    enum Kind {
        static let end: UInt32 = 0
        static let backingFormat: UInt32 = 0xe279_2aca
        static let featureNames: UInt32 = 0x6803_f857
        static let bitmaps: UInt32 = 0x2385_2875
        static let encryptionHeader: UInt32 = 0x0537_be77
        static let externalDataFile: UInt32 = 0x4441_5441
    }

    /// Where the bitmap directory is, as the extension says; nothing of it is trusted yet.
    public struct BitmapsPointer: Sendable, Equatable {
        /// Bitmaps in the directory (nb_bitmaps).
        public let count: UInt32
        /// Bytes of the directory (bitmap_directory_size).
        public let directoryBytes: UInt64
        /// Where the directory is (bitmap_directory_offset).
        public let directory: HostOffset
    }
    /// An extension of a type that this program does not know, kept as it is.
    public struct Unknown: Sendable, Equatable {
        /// The extension's type, as in the header.
        public let type: UInt32
        /// Its data, without padding.
        public let bytes: [UInt8]
    }

    /// The backing file's format, as QEMU calls it (extension 0xe2792aca).
    public private(set) var backingFormat: String?
    /// The feature name table (extension 0x6803f857).
    public private(set) var featureNames: [FeatureName] = []
    /// Where the bitmap directory is (extension 0x23852875).
    public private(set) var bitmaps: BitmapsPointer?
    /// Set when the bitmaps extension itself is malformed; that never blocks reading data.
    public private(set) var bitmapsProblem: ImageError?
    /// Where the LUKS header is, and its bytes (extension 0x0537be77).
    public private(set) var encryptionHeader: (offset: HostOffset, length: UInt64)?
    /// The external data file's name (extension 0x44415441).
    public private(set) var externalDataFile: FileName?
    /// Extensions of other types, in their order.
    public private(set) var unknown: [Unknown] = []
    /// The backing file's name, byte for byte; nil: the image has none.
    public private(set) var backingName: FileName?

    /// `first` is the first cluster of the file (shorter where the file is).
    public init(_ first: BigEndianBytes, header: Header) throws(ImageError) {
        let end = try backingArea(first, header)
        var at = Int(header.length)
        while at + 8 <= end {
            let type = try first.u32(at: at)
            let length = Int(try first.u32(at: at + 4))
            if type == Kind.end { break }
            guard length <= end - at - 8 else {
                throw .malformed(
                    "header extension \(hex(UInt64(type))) is longer than its cluster", at: HostOffset(UInt64(at)))
            }
            try take(type, first, at + 8, length)
            at += 8 + (length + 7) & ~7
        }
        if header.hasExternalData == false { externalDataFile = nil }
    }

    /// Reads the backing name and returns where the extensions must end: before the name, or with the cluster.
    private mutating func backingArea(_ first: BigEndianBytes, _ header: Header) throws(ImageError) -> Int {
        let cluster = min(Int(header.clusterSize), first.count)
        guard header.backingNameOffset != 0 else { return cluster }
        let size = Int(header.backingNameSize)
        guard header.backingNameSize <= Limits.backingNameBytes else {
            throw .malformed(
                "the backing file name is longer than \(Limits.backingNameBytes) bytes", at: HostOffset(16))
        }
        guard header.backingNameOffset <= header.clusterSize,
            header.backingNameOffset + UInt64(size) <= header.clusterSize
        else { throw .malformed("the backing file name lies outside the first cluster", at: HostOffset(8)) }
        // An offset with an empty name means no backing file, as QEMU reads it.
        if size > 0 {
            guard header.backingNameOffset >= UInt64(header.length) else {
                throw .malformed("the backing file name overlaps the header", at: HostOffset(8))
            }
            backingName = try Self.text(first, Int(header.backingNameOffset), size)
            // QEMU would take it for none, and the disk for one without its backing file.
            guard backingName != nil else {
                throw .malformed("the backing file name is empty", at: HostOffset(header.backingNameOffset))
            }
        }
        return min(cluster, Int(header.backingNameOffset))
    }

    private mutating func take(_ type: UInt32, _ b: BigEndianBytes, _ at: Int, _ length: Int) throws(ImageError) {
        switch type {
        case Kind.backingFormat:
            guard length <= 15 else {
                throw .malformed("the backing format name is too long", at: HostOffset(UInt64(at)))
            }
            backingFormat = try Self.text(b, at, length)?.description
        case Kind.featureNames: try takeFeatureNames(b, at, length)
        case Kind.bitmaps: try takeBitmaps(b, at, length)
        case Kind.encryptionHeader:
            guard length >= 16 else {
                throw .malformed("the encryption header extension is too short", at: HostOffset(UInt64(at)))
            }
            encryptionHeader = (HostOffset(try b.u64(at: at)), try b.u64(at: at + 8))
        case Kind.externalDataFile:
            externalDataFile = try Self.text(b, at, length)
        default:
            unknown.append(Unknown(type: type, bytes: Array(try b.slice(at: at, count: length))))
        }
    }

    /// A name, as QEMU reads it: as far as the first NUL byte. An empty one is none.
    private static func text(_ b: BigEndianBytes, _ at: Int, _ count: Int) throws(ImageError) -> FileName? {
        let name = try b.slice(at: at, count: count).prefix { $0 != 0 }
        return name.isEmpty ? nil : FileName(name)
    }

    private mutating func takeFeatureNames(_ b: BigEndianBytes, _ at: Int, _ length: Int) throws(ImageError) {
        for row in 0..<(length / 48) {
            let start = at + row * 48
            let name = try b.slice(at: start + 2, count: 46).prefix { $0 != 0 }
            featureNames.append(
                FeatureName(
                    kind: try b.u8(at: start), bit: try b.u8(at: start + 1), name: String(decoding: name, as: UTF8.self)
                ))
        }
    }

    private mutating func takeBitmaps(_ b: BigEndianBytes, _ at: Int, _ length: Int) throws(ImageError) {
        guard length == 24 else {
            bitmapsProblem = .malformed("the bitmaps extension has a wrong length", at: HostOffset(UInt64(at)))
            return
        }
        bitmaps = BitmapsPointer(
            count: try b.u32(at: at), directoryBytes: try b.u64(at: at + 8),
            directory: HostOffset(try b.u64(at: at + 16)))
        bitmapsProblem = nil
        if try b.u32(at: at + 4) != 0 {
            bitmapsProblem = .malformed("a reserved field of the bitmaps extension is set", at: HostOffset(UInt64(at)))
        }
    }
}
