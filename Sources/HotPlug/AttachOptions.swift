// Everything the caller decides about a disk for a running VM, in one value.
public import ImageChain
public import MapRegistry
public import SystemPackage

/// What to plug into which VM, and how.
public struct AttachOptions: Sendable {
    /// Path of an image or of a block device; relative ones are taken from here.
    public var image: FilePath
    /// Path of the VM's QMP socket.
    public var qmp: FilePath
    /// The device's id; nil: the first free one of qblk0, qblk1, ...
    public var id: String?
    public var open: OpenOptions
    public var readOnly = false
    /// nil: one for each of the VM's processors, four at most.
    public var queues: Int?
    public var packed = false
    public var bus: String?
    /// What the guest sees as the disk's serial number; nil: the id.
    public var serial: String?
    /// Arguments for `qblk serve` that are none of our business.
    public var serveArguments: [String] = []
    public var registry = AttachmentRegistry()
    /// The program that `serve` and the hidden verb are verbs of.
    public var executable: FilePath = "/proc/self/exe"

    public init(image: FilePath, qmp: FilePath, open: OpenOptions = OpenOptions()) {
        self.image = image
        self.qmp = qmp
        self.open = open
    }
}
