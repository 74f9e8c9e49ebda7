// Everything the caller may decide about opening an image, with the safe answer as default.
public import SystemPackage

public import LinuxIO

/// How the bytes of a file are laid out.
public enum ImageFormat: String, Sendable, CaseIterable, Codable {
    case qcow2
    case raw
}

/// What to open and how far to trust it.
public struct OpenOptions: Sendable {
    /// Format of the active image; nil = probe (the caller decides whether probing is safe).
    public var format: ImageFormat? = nil
    /// Folders, besides the image's own, where backing and data files may lie.
    public var allowedFolders: [FilePath] = []
    /// The working folder of the process that the user started, which relative names behind `file:` count from; nil: this
    /// process's own.
    public var workingFolder: FilePath? = nil
    /// Read this internal snapshot (id, else name) instead of the active state.
    public var snapshot: String? = nil
    /// Bytes of L2 tables to keep in memory, over the whole chain.
    public var l2CacheLimit: UInt64 = 64 << 20
    /// Take QEMU-compatible locks. Off only for `-U`.
    public var lock: Bool = true
    /// A process that started this one holds the locks already: they are taken here too, without a test.
    public var joinsLocks: Bool = false
    /// Writes will go through this chain. Then those of a predecessor that was killed are waited for (`WriterLock`). Off
    /// for a chain that is opened for writing only to hold its locks, or to look.
    public var takesWriterLock: Bool = true
    /// Open the active image (and its data file) for writing, with QEMU's lock for a writer. Its backing files stay
    /// read-only. A raw file that ends inside a sector is completed with zeros.
    public var writable: Bool = false
    /// Try O_DIRECT for data.
    public var direct: Bool = true
    /// The smallest range a writer will ask for. A file whose O_DIRECT wants larger blocks is written through the page
    /// cache instead: reading, changing and writing a block back would have to be one step.
    public var blockSize: Int = 512
    /// Take the active qcow2 image's disk to be of so many bytes, whatever its header says: it is being resized.
    package var diskSize: UInt64?
    /// The image must be this file: it was looked at before, and its name may lead to another one by now.
    public var identity: FileIdentity?
    /// The chain's files by descriptor, in the order of `ImageChain.files`. No name is looked up then, neither the image's
    /// nor those in headers. A file that is another one, or shorter, than it was is an error of kind `.reference`.
    public var files: [OpenedFile]?
    /// What becomes of `files`.
    public var filesUse = OpenedFile.Use.reopen
    /// Images in a chain at most. QEMU has no limit and hangs on loops.
    public var depthLimit: Int = 256

    /// The defaults: read-only, with every check.
    public init() {}
}
