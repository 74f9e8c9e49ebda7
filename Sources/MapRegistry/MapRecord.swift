// What a map leaves behind for the next `qblk`: enough to list it, to take it apart, and to clean up after it when
// its processes died.
public import LinuxIO
public import SystemPackage

/// How an image became a block device.
public enum MapMethod: String, Codable, Sendable, CaseIterable {
    /// A loop device, over a FUSE file that a server of ours serves, or over the image itself.
    case loop
    /// Device-mapper tables over the image.
    case dm
    /// Device-mapper for what the kernel can do, a server for the rest.
    case hybrid
    case ublk
}

/// One mapped image, as written to `state.json`.
public struct MapRecord: Codable, Equatable, Sendable {
    /// The map's name: that of its folder, and of a device-mapper device.
    public var name: String
    /// Absolute path of the image.
    @CodedPath public var image: FilePath
    /// `qcow2` or `raw`.
    public var format: String
    /// The internal snapshot that is shown, if not the active state.
    public var snapshot: String?
    /// Bytes of the device.
    public var size: UInt64
    /// Which kind of device it is.
    public var how: MapMethod
    /// What `qblk map` printed: the path of the block device.
    public var device: String
    /// Writes to the device are refused.
    public var readOnly: Bool
    /// The process that carries the requests, where there is one.
    public var server: ProcessIdentity?
    /// The process that watches the server and takes everything down on SIGTERM.
    public var supervisor: ProcessIdentity?
    /// Numbers N of the /dev/loopN that belong to this map.
    public var loops: [Int32]
    /// Which file the image is (device and inode): files are renamed while they are mapped. Missing in records of
    /// earlier versions.
    public var backingDevice: UInt64?
    /// The inode number; `backingDevice` has the device.
    public var backingInode: UInt64?
    /// Sectors of a writable loop device that had been written or discarded when the map was made: the kernel never resets
    /// its count.
    public var changesBefore: UInt64?
    /// UUID of the device-mapper device that `device` is.
    public var dmUUID: String?
    /// Names of the device-mapper devices that belong to this map, in the order to remove them.
    public var dmNames: [String]
    /// The FUSE file that must be unmounted, where there is one.
    @CodedPathIfAny public var mountPoint: FilePath?
    /// Seconds since 1970.
    public var created: Int64
    /// The device goes away by itself with its last user.
    public var deferred: Bool
    /// Why the map was given up: all requests to its device fail from then on.
    public var failure: String?
    /// Set when the map is gone and the image lacks what was written to it: for the process that waits for its end.
    public var trouble: String?

    /// A record without processes, loop devices or mounts: the maker fills in what it has. `created`: seconds since
    /// 1970.
    public init(
        name: String, image: FilePath, format: String, snapshot: String? = nil, size: UInt64, how: MapMethod,
        device: String, readOnly: Bool, created: Int64
    ) {
        self.name = name
        _image = CodedPath(wrappedValue: image)
        self.format = format
        self.snapshot = snapshot
        self.size = size
        self.how = how
        self.device = device
        self.readOnly = readOnly
        self.created = created
        loops = []
        dmNames = []
        deferred = false
    }

    /// Which file the image is, as `backingDevice` and `backingInode`.
    public var imageIdentity: FileIdentity? {
        get {
            guard let backingDevice, let backingInode else { return nil }
            return FileIdentity(device: backingDevice, inode: backingInode)
        }
        set { (backingDevice, backingInode) = (newValue?.device, newValue?.inode) }
    }

    /// The image's name leads to another file by now, or to none, and the image may have another name. False where the record
    /// does not know which file it is.
    public var isImageRenamed: Bool { imageIdentity != nil && !isImage(image) }

    /// Whether `path` leads to the image, by whatever name. Where the record does not know which file it is, its name
    /// decides.
    public func isImage(_ path: FilePath) -> Bool {
        guard let imageIdentity else { return image == path }
        return Filesystem.identity(of: path) == imageIdentity
    }
}
