// After a crash a record may describe what is no longer there. Telling the living from the dead needs no cooperation
// from either: the kernel's own lists say.
public import DiskTypes
import Glibc
import LinuxIO
public import SystemPackage

/// What is left of a map.
public enum MapHealth: Sendable {
    /// Everything the record names is there.
    case alive
    /// The device is there but a process that belongs to it is not: usable perhaps, not to be relied upon.
    case degraded
    /// The map was given up, because the image's files are not what they were: all requests to the device fail.
    case failed
    /// The device is gone.
    case dead
}

extension MapRecord {
    /// What is left of the map now.
    public var health: MapHealth {
        guard isDeviceThere else { return .dead }
        if failure != nil { return .failed }
        for process in [server, supervisor] {
            if let process, !process.isAlive { return .degraded }
        }
        return .alive
    }

    private var isDeviceThere: Bool {
        if how == .loop { return loops.first.map(ownsLoop) ?? false }
        return how == .ublk ? Filesystem.identity(of: FilePath(device))?.inode == 0 : isOurDeviceMapperDevice
    }

    /// Whether the device is still the one that this map made, told by its UUID: the name may be another program's now.
    private var isOurDeviceMapperDevice: Bool {
        guard let identity = Filesystem.identity(of: FilePath(device)), identity.inode == 0 else { return false }
        guard let line = Filesystem.readIfThere("/sys/dev/block/\(identity.deviceNumber)/dm/uuid") else {
            // Without sysfs nothing can be told but that a device is there.
            return !Filesystem.isDirectory("/sys/dev/block")
        }
        let uuid = line.prefix { $0 != "\n" }
        return dmUUID.map { uuid == $0 } ?? uuid.hasPrefix("QBLK-")
    }

    /// Whether /dev/loopN is attached, and still to what this map attached it to. The number alone proves nothing: who
    /// detaches it by hand sets it free for others.
    public func ownsLoop(_ number: Int32) -> Bool {
        guard let path = LoopDevice.backingFile(number) else { return false }
        // Asked only of plain loop devices: of a file that FUSE serves, the question would go to its server.
        if let known = imageIdentity, mountPoint == nil {
            do throws(ImageError) {
                if let status = try LoopDevice.open(number).status() { return status.identity == known }
            } catch {
                // Not root, or the file cannot be reached: the name has to do.
            }
        }
        let ours = mountPoint ?? image
        return path == ours || path == ours.extended(" (deleted)")
    }
}

extension MapRegistry {
    /// Records of maps that a crash left behind, wholly or in part. Taking them down is the business of who made them.
    public func staleRecords() throws(ImageError) -> [MapRecord] {
        try all().filter { $0.health != .alive }
    }

    /// Removes folders of maps that died before they had a record. `takeDown` is given each folder first, under the
    /// map's lock: a device may have been made already, which nothing but the folder's path tells.
    public func sweep(_ takeDown: (_ folder: FilePath) throws(ImageError) -> Void = { _ in }) throws(ImageError) {
        for name in try names() where try record(of: name) == nil {
            guard let lock = try FileLock(lockPath(name), timeout: 0) else { continue }
            if try record(of: name) == nil {
                try takeDown(folder(of: name))
                try RegistryFiles.removeFolder(folder(of: name))
            }
            _ = consume lock
        }
    }
}
