// The largest count, offset and size that an image may claim, each with a name, in one place. They are the
// specification's where it has one and QEMU's where it is silent, so that no image QEMU writes is refused.

/// The largest values that this program accepts in an image.
public enum Limits {
    /// Cluster sizes 512 B to 2 MiB (spec: at least 9; QEMU: at most 21).
    public static let clusterBits: ClosedRange<UInt32> = 9...21
    /// Extended L2 entries need clusters of 16 KiB, so that a subcluster is at least 512 bytes.
    public static let clusterBitsForSubclusters: UInt32 = 14
    /// Bytes of an L1 table (QEMU: 32 MiB, 4,194,304 entries).
    public static let l1Bytes: UInt64 = 32 << 20
    /// Bytes of the refcount table (QEMU: 8 MiB).
    public static let refcountTableBytes: UInt64 = 8 << 20
    /// Bits of a refcount: 2 to this power (spec: 64 bits).
    public static let refcountOrder: UInt32 = 6
    /// Snapshots in one image (QEMU).
    public static let snapshots: UInt32 = 65536
    /// Bytes of the snapshot table (QEMU: 64 MiB).
    public static let snapshotTableBytes: UInt64 = 64 << 20
    /// Bytes of a backing file's name (spec).
    public static let backingNameBytes: UInt32 = 1023
    /// Bitmaps in one image (QEMU: 65535).
    public static let bitmaps: UInt32 = 65535
    /// Bytes of the bitmap directory (QEMU: 64 MiB).
    public static let bitmapDirectoryBytes: UInt64 = 64 << 20
    /// Clusters of one bitmap (QEMU).
    public static let bitmapTableEntries: UInt32 = 0x800_0000
    /// Bytes of a bitmap's name (QEMU).
    public static let bitmapNameBytes: UInt16 = 1023
    /// Guest bytes of one bit of a bitmap: 2 to these powers (QEMU: 512 bytes to 2 GiB).
    public static let bitmapGranularityBits: ClosedRange<UInt8> = 9...31
    /// Bytes of the LUKS header with all its key slots; they take 2 MiB, LUKS2 would take 16.
    public static let encryptionHeaderBytes: UInt64 = 256 << 20
    /// Offsets that fit an L1 or L2 entry (bits 9 to 55).
    public static let hostOffset: UInt64 = 1 << 56
    /// Virtual size: what a signed 64-bit count of bytes can address (QEMU: INT64_MAX).
    public static let virtualSize: UInt64 = UInt64(Int64.max)
    /// Bytes of L2 table fetched and cached at once. A whole table where clusters are smaller than this.
    public static let l2SliceBytes = 4096
}
