// What `info` knows about an image, as values: one field a key of qemu-img's JSON.

public import QCOW2
public import DiskTypes
public import SystemPackage

/// One image as its own file describes it.
public struct ImageInfo: Sendable {
    /// The name it was opened by.
    public var filename: FilePath
    /// `qcow2`, `raw`, or `luks` for a container, which is named and not read.
    public var format: String
    /// Bytes of the guest's disk.
    public var virtualSize: UInt64
    /// QCOW2 only.
    public var clusterSize: UInt64?
    /// The header's dirty bit: refcounts may be wrong.
    public var isDirty = false
    /// As the header has it, and as it counts from the image's folder.
    public var backingFilename: FileName?
    /// The backing file's name as it counts from the image's folder.
    public var fullBackingFilename: FileName?
    /// The backing file's format, if the header names one.
    public var backingFormat: String?
    /// Internal snapshots, in the table's order.
    public var snapshots: [Snapshot] = []
    /// QCOW2 only: what `format-specific` has.
    public var specific: QCOW2Info?
    /// Of a LUKS container.
    public var luks: LUKSHeader?
    /// The file that holds all this.
    public var file: FileInfo

    /// The disk cannot be read without a key.
    public var isEncrypted: Bool { specific?.encryption != nil || luks != nil }
    /// Bytes it takes on its file system.
    public var actualSize: UInt64 { file.actualSize }
}

/// The file of an image, as the host sees it.
public struct FileInfo: Sendable {
    /// The name it was opened by.
    public var filename: FilePath
    /// A device of the host, not a file.
    public var isBlockDevice: Bool
    /// In whole sectors.
    public var length: UInt64
    /// Bytes it takes on its file system; 0 for a device.
    public var actualSize: UInt64
    /// XFS: how much space the file system takes at once, if that was set.
    public var extentSizeHint: UInt32?

    /// What QEMU calls the driver for such a file.
    public var driver: String { isBlockDevice ? "host_device" : "file" }
}

/// What only QCOW2 images have.
public struct QCOW2Info: Sendable {
    /// 2 or 3.
    public var version: UInt32
    /// How clusters are compressed: `zlib` or `zstd`.
    public var compression: String
    /// Bits of a refcount: 1 to 64, a power of two.
    public var refcountBits: Int
    /// Refcounts may be written late: the compatible bit `lazy-refcounts`.
    public var lazyRefcounts: Bool
    /// The incompatible bit `corrupt`: QEMU does not write such an image.
    public var isCorrupt: Bool
    /// L2 entries of 16 bytes, with subclusters.
    public var extendedL2: Bool
    /// The external data file's name, if the image has one.
    public var dataFile: FileName?
    /// Whether the external data file is to stay a valid raw image; nil without one.
    public var dataFileRaw: Bool?
    /// Persistent bitmaps; none where the directory cannot be read.
    public var bitmaps: [Bitmap]
    /// How the image is encrypted, if it is.
    public var encryption: EncryptionInfo?
}

/// How an image is encrypted.
public enum EncryptionInfo: Sendable {
    case aes
    /// nil: the LUKS header cannot be read.
    case luks(LUKSHeader?)
}
