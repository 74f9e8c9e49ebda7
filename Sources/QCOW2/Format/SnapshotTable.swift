// Internal snapshots, listed for `info` and opened read-only by id or name. A broken table never blocks reading the
// active state, so it is decoded apart from the header.

public import DiskTypes

/// One entry of the snapshot table (specification: "Snapshots").
public struct Snapshot: Sendable, Equatable {
    /// The unique id, digits as QEMU makes it.
    public let id: String
    /// The name that the user gave; not always unique.
    public let name: String
    /// Where the snapshot's L1 table is.
    public let l1Offset: HostOffset
    /// Entries of that table, of 8 bytes each.
    public let l1Entries: UInt32
    /// When the snapshot was taken, in seconds since 1970 (UTC).
    public let dateSeconds: UInt32
    /// The rest of that time, in nanoseconds.
    public let dateNanoseconds: UInt32
    /// Nanoseconds the guest had run.
    public let vmClock: UInt64
    /// Bytes of the machine's state that is saved behind the disk; 0: none.
    public let vmStateSize: UInt64
    /// Bytes of the disk when it was taken; nil in short entries, as old version 2 images have them: the image's size.
    public let diskSize: UInt64?
    /// Instruction counter of record/replay; nil when absent (all ones on disk).
    public let icount: UInt64?

    /// The entry says how large the disk was, as every entry of a version 3 image should.
    public var isComplete: Bool { diskSize != nil }
}

/// The snapshot table of an image (specification: "Snapshots").
public enum SnapshotTable {
    /// Decodes `header.snapshotCount` entries.
    public static func read(_ header: Header, from source: some ByteSource) throws(ImageError) -> [Snapshot] {
        try readWithSize(header, from: source).list
    }

    /// The entries, and how many bytes the table takes.
    static func readWithSize(
        _ header: Header, from source: some ByteSource
    ) throws(ImageError) -> (list: [Snapshot], bytes: UInt64) {
        guard header.snapshotCount > 0 else { return ([], 0) }
        let start = header.snapshotsOffset
        guard start.bytes < source.length else {
            throw .malformed("the snapshot table lies past the end of the file", at: start)
        }
        let room = min(Limits.snapshotTableBytes, source.length - start.bytes)
        var window = Window(source: source, start: start, room: room)
        var list: [Snapshot] = []
        var at: UInt64 = 0
        for _ in 0..<header.snapshotCount {
            let (snapshot, bytes) = try entry(&window, at: at)
            list.append(snapshot)
            at += bytes
        }
        return (list, at)
    }

    /// The bytes of the whole table with every entry complete: sizes that an entry lacks are the ones that readers take
    /// instead. What later versions have added to an entry stays.
    static func completed(_ header: Header, from source: some ByteSource) throws(ImageError) -> [UInt8] {
        var window = Window(
            source: source, start: header.snapshotsOffset,
            room: min(Limits.snapshotTableBytes, source.length - min(source.length, header.snapshotsOffset.bytes)))
        var table: [UInt8] = []
        var at: UInt64 = 0
        for _ in 0..<header.snapshotCount {
            let (snapshot, bytes) = try entry(&window, at: at)
            let old = try window.bytes(at: at, count: bytes)
            table += try completed(snapshot, old.bytes, diskSize: header.diskSize, try old.u32(at: 36))
            at += bytes
        }
        return table
    }

    private static func completed(
        _ snapshot: Snapshot, _ old: [UInt8], diskSize: UInt64, _ extraSize: UInt32
    ) throws(ImageError) -> [UInt8] {
        if snapshot.isComplete { return old }
        let strings = BigEndianBytes(old)
        let count = Int(try strings.u16(at: 12)) + Int(try strings.u16(at: 14))
        let extra = bigEndian(snapshot.vmStateSize) + bigEndian(diskSize) + bigEndian(UInt64.max)
        var new = Array(old[..<36]) + bigEndian(UInt32(extra.count)) + extra
        new += try strings.slice(at: 40 + Int(extraSize), count: count)
        return new + [UInt8](repeating: 0, count: -new.count & 7)
    }

    /// Finds a snapshot as qemu-img does: by id first, then by name.
    public static func find(_ wanted: String, in list: [Snapshot]) throws(ImageError) -> Snapshot {
        guard let hit = list.first(where: { $0.id == wanted }) ?? list.first(where: { $0.name == wanted }) else {
            throw ImageError(
                .notFound, "there is no snapshot \"\(printable(wanted))\"",
                advice: "`qblk info` lists what there is")
        }
        return hit
    }

    private static func entry<S: ByteSource>(
        _ window: inout Window<S>, at: UInt64
    ) throws(ImageError) -> (Snapshot, UInt64) {
        let fixed = try window.bytes(at: at, count: 40)
        let idSize = UInt64(try fixed.u16(at: 12))
        let nameSize = UInt64(try fixed.u16(at: 14))
        let extraSize = UInt64(try fixed.u32(at: 36))
        guard extraSize <= Limits.snapshotTableBytes else {
            throw .malformed("a snapshot entry claims \(extraSize) bytes of extra data", at: window.start + at)
        }
        let known = try window.bytes(at: at + 40, count: min(extraSize, 24))
        let strings = try window.bytes(at: at + 40 + extraSize, count: idSize + nameSize)
        let icount = known.count >= 24 ? try known.u64(at: 16) : UInt64.max
        let snapshot = Snapshot(
            id: try strings.text(at: 0, count: Int(idSize)),
            name: try strings.text(at: Int(idSize), count: Int(nameSize)),
            l1Offset: HostOffset(try fixed.u64(at: 0)), l1Entries: try fixed.u32(at: 8),
            dateSeconds: try fixed.u32(at: 16), dateNanoseconds: try fixed.u32(at: 20),
            vmClock: try fixed.u64(at: 24),
            vmStateSize: known.count >= 8 ? try known.u64(at: 0) : UInt64(try fixed.u32(at: 32)),
            diskSize: known.count >= 16 ? try known.u64(at: 8) : nil,
            icount: icount == UInt64.max ? nil : icount)
        return (snapshot, (40 + extraSize + idSize + nameSize + 7) & ~7)
    }
}

/// Reads the table in pieces: its length is only known at its end.
private struct Window<S: ByteSource> {
    let source: S
    let start: HostOffset
    let room: UInt64
    private var cached: [UInt8] = []
    private var cachedAt: UInt64 = 0

    init(source: S, start: HostOffset, room: UInt64) {
        self.source = source
        self.start = start
        self.room = room
    }

    mutating func bytes(at offset: UInt64, count: UInt64) throws(ImageError) -> BigEndianBytes {
        guard offset <= room, count <= room - offset else {
            throw .malformed("the snapshot table is cut off", at: start)
        }
        if offset < cachedAt || offset + count > cachedAt + UInt64(cached.count) {
            let want = Int(max(count, min(65536, room - offset)))
            cached = try source.readAll(at: start + offset, count: want, what: "the snapshot table")
            cachedAt = offset
        }
        let from = Int(offset - cachedAt)
        return BigEndianBytes(Array(cached[from..<(from + Int(count))]), base: start + offset)
    }
}
