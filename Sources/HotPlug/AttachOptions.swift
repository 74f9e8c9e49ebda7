// What the caller of `attach` decides about a disk for a running VM.
public import ImageChain
public import MapRegistry
public import SystemPackage

/// Which disk to plug into which VM, and how.
public struct AttachOptions: Sendable {
    /// Path of an image or of a block device; a relative one counts from the current folder.
    public var image: FilePath
    /// Path of the VM's QMP socket.
    public var qmp: FilePath
    /// The device's id; nil: the first free one of qblk0, qblk1, ...
    public var id: String?
    /// How to open an image: format, snapshot, folders that it may refer to.
    public var open: OpenOptions
    /// The guest cannot write.
    public var readOnly = false
    /// Virtqueues of the disk; nil: one for each of the VM's processors, four at most.
    public var queues: Int?
    /// Packed rings, if the VM and the guest know them.
    public var packed = false
    /// The id of the VM's bus to plug into; nil: the first with a free port.
    public var bus: String?
    /// The serial number that the guest sees, at most 20 bytes; nil: the id.
    public var serial: String?
    /// Further arguments for `qblk serve`, passed on as they are.
    public var serveArguments: [String] = []
    /// Where disks in VMs are recorded.
    public var registry = AttachmentRegistry()
    /// The program that has `serve` and the hidden verb.
    public var executable: FilePath = "/proc/self/exe"

    /// A disk that the guest may write, with an id, a bus and queues that are chosen for the VM at `qmp`.
    public init(image: FilePath, qmp: FilePath, open: OpenOptions = OpenOptions()) {
        self.image = image
        self.qmp = qmp
        self.open = open
    }
}
