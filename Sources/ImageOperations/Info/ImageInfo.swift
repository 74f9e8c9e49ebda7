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
    public var isDirty = false
    /// As the header has it, and as it counts from the image's folder.
    public var backingFilename: FileName?
    public var fullBackingFilename: FileName?
    public var backingFormat: String?
    public var snapshots: [Snapshot] = []
    public var specific: QCOW2Info?
    /// Of a LUKS container.
    public var luks: LUKSHeader?
    /// The file that holds all this.
    public var file: FileInfo

    public var isEncrypted: Bool { specific?.encryption != nil || luks != nil }
    /// Bytes it takes on its file system.
    public var actualSize: UInt64 { file.actualSize }
}

/// The file of an image, as the host sees it.
public struct FileInfo: Sendable {
    public var filename: FilePath
    public var isBlockDevice: Bool
    /// In whole sectors.
    public var length: UInt64
    public var actualSize: UInt64
    /// XFS: how much space the file system takes at once, if that was set.
    public var extentSizeHint: UInt32?

    /// What QEMU calls the driver for such a file.
    public var driver: String { isBlockDevice ? "host_device" : "file" }
}

/// What only QCOW2 images have.
public struct QCOW2Info: Sendable {
    public var version: UInt32
    public var compression: String
    public var refcountBits: Int
    public var lazyRefcounts: Bool
    public var isCorrupt: Bool
    public var extendedL2: Bool
    public var dataFile: FileName?
    public var dataFileRaw: Bool?
    public var bitmaps: [Bitmap]
    public var encryption: EncryptionInfo?
}

/// How an image is encrypted.
public enum EncryptionInfo: Sendable {
    case aes
    /// nil: the LUKS header cannot be read.
    case luks(LUKSHeader?)
}
