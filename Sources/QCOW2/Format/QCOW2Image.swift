// The image as a whole once its header is read: what `info` prints, and the way from the bytes of a file to a map of
// its active state or of one snapshot.

public import DiskTypes

/// An opened QCOW2 header with everything that hangs on it. Reading it changes nothing and follows no reference.
public struct QCOW2Image: Sendable {
    /// The fixed part of the header.
    public let header: Header
    /// The rest of the first cluster: extensions and the backing file's name.
    public let extensions: HeaderExtensions
    /// Internal snapshots, or why they cannot be listed.
    public let snapshots: Result<[Snapshot], ImageError>
    /// Persistent bitmaps, or why they cannot be listed. Only meaningful while autoclear bit 0 is set.
    public let bitmaps: Result<[Bitmap], ImageError>

    /// Reads and judges header, extensions, snapshot table and bitmap directory.
    ///
    /// `listing`: whether snapshots and bitmaps will be asked for. A chain's lower layers need neither, and a hostile
    /// one could make 256 of them hold long lists. `size`: take the disk to be of so many bytes, whatever the header
    /// says; the L1 table must have room for them.
    public init(
        reading source: some ByteSource, listing: Bool = true, size: UInt64? = nil
    ) throws(ImageError) {
        let start = BigEndianBytes(try source.read(at: HostOffset(0), count: 512))
        var header = try Header(start)
        if let size { header = try header.resized(to: size) }
        let first = BigEndianBytes(try source.read(at: HostOffset(0), count: Int(header.clusterSize)))
        guard first.count >= Int(header.length) else {
            throw .malformed("the header is cut off", advice: "the image is truncated")
        }
        extensions = try Self.readExtensions(first, header)
        self.header = header
        try Self.requireTables(header, source)
        guard listing else {
            (snapshots, bitmaps) = (.success([]), .success([]))
            return
        }
        snapshots = Self.attempt { () throws(ImageError) in try SnapshotTable.read(header, from: source) }
        bitmaps = Self.readBitmaps(header, extensions, source)
    }

    /// Whether the file's first bytes say QCOW2 (any version).
    public static func probe(_ firstBytes: [UInt8]) -> Bool {
        firstBytes.starts(with: [0x51, 0x46, 0x49, 0xfb])
    }

    /// The table entry `wanted` names, by id first.
    public func snapshot(_ wanted: String) throws(ImageError) -> Snapshot {
        try SnapshotTable.find(wanted, in: try snapshots.get())
    }

    /// Refuses what cannot be read as plain data.
    public func requireReadable() throws(ImageError) {
        switch header.encryption {
        case .none: return
        case .aes, .luks:
            let name = header.encryption == .aes ? "AES" : "LUKS"
            throw .unsupported(
                "the image is encrypted (\(name)) and this version reads plain images only",
                advice: "decrypt it with qemu-img convert first")
        }
    }

    /// Refuses what must not be written before it is repaired.
    public func requireWritable() throws(ImageError) {
        if header.incompatible.contains(.corrupt) {
            throw .malformed(
                "the image is marked corrupt and is not written to",
                advice: "open it read-only (-r), or repair it with qblk check -r all")
        }
        if header.incompatible.contains(.dirty) {
            throw .malformed(
                "the image was not closed properly and its refcounts may be stale",
                advice: "run qblk check -r all first, or open it read-only (-r)")
        }
        try requireListing(snapshots, "snapshot table")
        if header.autoclear.contains(.bitmaps) { try requireListing(bitmaps, "bitmap directory") }
        try requireNoEnabledBitmap()
    }

    /// A writer has to know every table of the image: it must not write over one, nor leave a bitmap that is wrong.
    private func requireListing<List>(_ list: Result<List, ImageError>, _ what: String) throws(ImageError) {
        guard case .failure(let error) = list else { return }
        guard error.kind == .malformed else { throw error }
        throw .malformed(
            "the \(what) cannot be read, and the image is not written to: \(error.what)", at: error.at,
            advice: "open it read-only (-r)")
    }

    /// An enabled bitmap has to record every write from now on, and would be wrong for ever after one that it does not.
    private func requireNoEnabledBitmap() throws(ImageError) {
        guard case .success(let list) = bitmaps, let bitmap = list.first(where: { $0.isAuto && !$0.isInUse }) else {
            return
        }
        let name = printable(bitmap.name)
        throw .unsupported(
            "the bitmap \"\(name)\" is enabled and has to record every write, which this version cannot do",
            advice: "open the image read-only (-r), or give the bitmap up: qemu-img bitmap --disable IMAGE \"\(name)\"")
    }

    static func readExtensions(_ first: BigEndianBytes, _ header: Header) throws(ImageError) -> HeaderExtensions {
        let extensions: HeaderExtensions
        do { extensions = try HeaderExtensions(first, header: header) } catch {
            // An unknown feature may change the extensions' layout too: it is the better thing to report.
            try header.incompatible.refuseUnknown(names: [])
            throw error
        }
        try header.incompatible.refuseUnknown(names: extensions.featureNames)
        return extensions
    }

    /// The tables every reader and writer relies on must be there: a file cut short must not read as zeros.
    private static func requireTables(_ header: Header, _ source: some ByteSource) throws(ImageError) {
        let needed = header.l1EntriesNeeded(for: header.size) * 8
        guard needed == 0 || header.l1Offset.bytes + needed <= source.length else {
            throw .malformed(
                "the L1 table lies past the end of the file", at: header.l1Offset,
                advice: "the image is truncated")
        }
        guard header.refcountTableOffset.bytes < source.length else {
            throw .malformed(
                "the refcount table lies past the end of the file", at: header.refcountTableOffset,
                advice: "the image is truncated")
        }
    }

    private static func readBitmaps(
        _ header: Header, _ extensions: HeaderExtensions, _ source: some ByteSource
    ) -> Result<[Bitmap], ImageError> {
        if let problem = extensions.bitmapsProblem { return .failure(problem) }
        guard let pointer = extensions.bitmaps, header.autoclear.contains(.bitmaps) else { return .success([]) }
        return attempt { () throws(ImageError) in
            try BitmapDirectory.read(pointer, clusterSize: header.clusterSize, from: source)
        }
    }

    private static func attempt<T>(_ body: () throws(ImageError) -> T) -> Result<T, ImageError> {
        do { return .success(try body()) } catch { return .failure(error) }
    }
}
