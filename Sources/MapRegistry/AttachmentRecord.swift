// A disk that was plugged into a running VM is known by two names, the VM's monitor and the device's id. This is what
// the next `qblk` needs to list it, to unplug it, and to clean up after it.
public import DiskTypes
public import LinuxIO
public import SystemPackage

/// How a disk came into a VM.
public enum AttachmentMethod: String, Codable, Sendable {
    /// An image that a server of ours serves.
    case vhostUser = "vhost-user"
    /// A block device of the host, which QEMU opens itself.
    case virtioBlk = "virtio-blk"
}

/// One disk in a running VM.
public struct AttachmentRecord: Codable, Equatable, Sendable {
    /// The device's id in QEMU.
    public var id: String
    /// Absolute path of the VM's QMP socket.
    @CodedPath public var qmp: FilePath
    /// Absolute path of the image or the device.
    @CodedPath public var image: FilePath
    /// `qcow2` or `raw`.
    public var format: String
    /// The internal snapshot that the VM sees, if not the active state.
    public var snapshot: String?
    /// Bytes of the disk.
    public var size: UInt64
    /// Whether an image is served or a device opened.
    public var how: AttachmentMethod
    /// The guest cannot write.
    public var readOnly: Bool
    /// Where the server listens, for images.
    @CodedPathIfAny public var socket: FilePath?
    /// The process that serves the image, for images.
    public var server: ProcessIdentity?
    /// The process that starts the server again when it dies, for images.
    public var supervisor: ProcessIdentity?
    /// The QEMU process, where it is known.
    public var machine: ProcessIdentity?
    /// Seconds since 1970.
    public var created: Int64
    /// How the server was started, without its files: for a supervisor that has to be replaced.
    public var serveArguments: [FileName]?
    /// Which files the image has, itself first: its name may lead to another by now.
    public var files: [FileIdentity]?
    /// What went wrong at the server's end: something that the guest wrote may be lost.
    public var trouble: String?
    /// The VM has the disk. Until then it is being plugged in, by the process that holds the lock.
    public var isPlugged = false

    /// A record of a disk that is being plugged in, without processes. `created`: seconds since 1970.
    public init(
        id: String, qmp: FilePath, image: FilePath, format: String, size: UInt64, how: AttachmentMethod, readOnly: Bool,
        created: Int64
    ) {
        self.id = id
        _qmp = CodedPath(wrappedValue: qmp)
        _image = CodedPath(wrappedValue: image)
        self.format = format
        self.size = size
        self.how = how
        self.readOnly = readOnly
        self.created = created
    }

    /// Whether all is there that the disk needs.
    public var health: MapHealth {
        if machine.map({ !$0.isAlive }) ?? !Filesystem.exists(qmp) { return .dead }
        guard isPlugged, [server, supervisor].allSatisfy({ $0?.isAlive ?? true }) else { return .degraded }
        return .alive
    }
}
