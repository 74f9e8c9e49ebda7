// The directory of persistent dirty bitmaps. `info` lists them, and a writer must keep or drop them. A broken
// directory is reported where bitmaps are asked for and never blocks reading data.

public import DiskTypes

/// One entry of the bitmap directory (specification: "Bitmaps").
public struct Bitmap: Sendable, Equatable {
    /// The bitmap's name, unique in its image.
    public let name: String
    /// Where the bitmap table is (bitmap_table_offset).
    public let table: HostOffset
    /// Entries of the bitmap table, of 8 bytes each (bitmap_table_size).
    public let tableEntries: UInt32
    /// Bit 0: in_use; bit 1: auto; bit 2: extra_data_compatible.
    public let flags: UInt32
    /// Guest bytes that one bit stands for: 2 to this power.
    public let granularityBits: UInt8

    /// The bitmap was not saved in order: what it says is not to be believed.
    public var isInUse: Bool { flags & 1 != 0 }
    /// The bitmap must follow every write of the guest's disk.
    public var isAuto: Bool { flags & 2 != 0 }
    /// Guest bytes that one bit stands for.
    public var granularity: UInt64 { 1 << UInt64(granularityBits) }
}

/// The directory of persistent bitmaps (specification: "Bitmap directory").
public enum BitmapDirectory {
    /// Reads all entries. Throws `.malformed` for a directory that breaks the format, and the system's error.
    public static func read(
        _ pointer: HeaderExtensions.BitmapsPointer, clusterSize: UInt64, from source: some ByteSource
    ) throws(ImageError) -> [Bitmap] {
        guard pointer.count > 0, pointer.count <= Limits.bitmaps else {
            throw .malformed("the bitmaps extension claims \(pointer.count) bitmaps")
        }
        guard pointer.directoryBytes <= Limits.bitmapDirectoryBytes, pointer.directory.bytes & (clusterSize - 1) == 0
        else { throw .malformed("the bitmap directory is out of range", at: pointer.directory) }
        let bytes = BigEndianBytes(
            try source.readAll(at: pointer.directory, count: Int(pointer.directoryBytes), what: "the bitmap directory"),
            base: pointer.directory)
        var list: [Bitmap] = []
        var at = 0
        while at < bytes.count {
            guard list.count < Int(pointer.count) else {
                throw .malformed("the bitmap directory has more entries than the \(pointer.count) the header says")
            }
            let (bitmap, size) = try entry(bytes, at)
            list.append(bitmap)
            at += size
        }
        guard list.count == Int(pointer.count) else {
            throw .malformed("the bitmap directory has \(list.count) entries, the header says \(pointer.count)")
        }
        return list
    }

    private static func entry(_ b: BigEndianBytes, _ at: Int) throws(ImageError) -> (Bitmap, Int) {
        let type = try b.u8(at: at + 16)
        let granularity = try b.u8(at: at + 17)
        let nameSize = try b.u16(at: at + 18)
        let extra = Int(try b.u32(at: at + 20))
        guard type == 1 else { throw .unsupported("bitmap type \(type) is not known") }
        guard Limits.bitmapGranularityBits.contains(granularity) else {
            throw .malformed("a bitmap has granularity 2^\(granularity)", at: b.base + UInt64(at))
        }
        guard nameSize <= Limits.bitmapNameBytes, nameSize > 0, extra <= b.count else {
            throw .malformed("a bitmap directory entry is out of range", at: b.base + UInt64(at))
        }
        let bitmap = Bitmap(
            name: try b.text(at: at + 24 + extra, count: Int(nameSize)),
            table: HostOffset(try b.u64(at: at)), tableEntries: try b.u32(at: at + 8),
            flags: try b.u32(at: at + 12), granularityBits: granularity)
        return (bitmap, (24 + extra + Int(nameSize) + 7) & ~7)
    }
}
