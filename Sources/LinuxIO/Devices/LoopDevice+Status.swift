// What a loop device stands for and who uses it, asked of the kernel each time: nothing here may be older than the
// question.
import CQblk
public import DiskTypes
import Glibc
public import SystemPackage

/// What a loop device is attached to.
public struct LoopStatus: Hashable, Sendable {
    /// The file's path as the kernel sees it now (" (deleted)" at the end when it was removed), or the given name.
    public let backingFile: FilePath
    /// Which file it is attached to.
    public let identity: FileIdentity
    /// Bytes of the file that come before the device's first.
    public let offset: UInt64
    /// 0: to the end of the file.
    public let sizeLimit: UInt64
    /// LO_FLAGS_READ_ONLY: writes are refused.
    public let isReadOnly: Bool
    /// LO_FLAGS_DIRECT_IO: the file is read and written past the page cache.
    public let usesDirectIO: Bool
    /// LO_FLAGS_AUTOCLEAR: it detaches when its last user closes it.
    public let clearsItself: Bool
    /// LO_FLAGS_PARTSCAN: the kernel looks for partitions on it.
    public let scansPartitions: Bool
}

extension LoopDevice {
    /// The path of the file behind it, as the kernel knows it now (" (deleted)" at the end when it was removed); nil when
    /// the device is not attached. Unlike `status()` it asks nothing of the file, which may lie on a file system whose
    /// server is dead or stuck.
    public var backingFile: FilePath? { LoopDevice.backingFile(number) }

    /// The same for a device of which only the number is known. A path may contain line breaks; the kernel adds one.
    public static func backingFile(_ number: Int32) -> FilePath? {
        do throws(Errno) {
            var bytes = try Filesystem.readBytes("/sys/block/loop\(number)/loop/backing_file")
            if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
            return bytes.isEmpty ? nil : FilePath(bytes: bytes)
        } catch { return nil }
    }

    /// What it is attached to; nil when to nothing. The kernel asks the file system that the file lies on: an error such
    /// as ENOTCONN, or a wait, where that is a FUSE server that is dead or stuck.
    public func status() throws(ImageError) -> LoopStatus? {
        let answer: loop_info64?
        do throws(Errno) {
            answer = try withDevice { fd throws(Errno) in try LoopDevice.info(fd) }
        } catch {
            throw LoopDevice.loopError("ask for the state of \(path)", error)
        }
        guard let answer else { return nil }
        let given = unsafe withUnsafeBytes(of: answer.lo_file_name) { bytes in
            unsafe FilePath(bytes: bytes.prefix { $0 != 0 })
        }
        let isBlock = answer.lo_rdevice != 0
        return LoopStatus(
            backingFile: backingFile ?? given ?? "",
            identity: FileIdentity(
                device: isBlock ? answer.lo_rdevice : answer.lo_device, inode: isBlock ? 0 : answer.lo_inode),
            offset: answer.lo_offset, sizeLimit: answer.lo_sizelimit,
            isReadOnly: answer.lo_flags & QB_LO_FLAGS_READ_ONLY != 0,
            usesDirectIO: answer.lo_flags & QB_LO_FLAGS_DIRECT_IO != 0,
            clearsItself: answer.lo_flags & QB_LO_FLAGS_AUTOCLEAR != 0,
            scansPartitions: answer.lo_flags & QB_LO_FLAGS_PARTSCAN != 0)
    }

    /// Makes an auto-clearing device one that stays, and stops being its user: for devices that must go with their
    /// maker until it has written down that they exist.
    public func keep() throws(ImageError) {
        do throws(Errno) {
            try withDevice { fd throws(Errno) in
                guard var state = try LoopDevice.info(fd) else { throw Errno.noSuchAddressOrDevice }
                state.lo_flags &= ~QB_LO_FLAGS_AUTOCLEAR
                if unsafe ioctl(fd, UInt(QB_LOOP_SET_STATUS64), &state) != 0 { throw .last }
            }
        } catch {
            throw LoopDevice.loopError("keep \(path)", error)
        }
        release()
    }

    /// It is in use, as far as can be told: plain opens without O_EXCL leave no trace.
    public var isInUse: Bool { !users().isEmpty }

    /// Who uses it, in words: `mounted on /mnt`, `held by dm-3`, `open elsewhere`.
    public func users() -> [String] {
        let name = "loop\(number)"
        let parts = Filesystem.listIfThere("/sys/block/\(name)").filter { $0.hasPrefix(name + "p") }
        var users: [String] = []
        for place in [name] + parts.map({ "\(name)/\($0)" }) {
            for holder in Filesystem.listIfThere("/sys/block/\(place)/holders") { users.append("held by \(holder)") }
        }
        let devices = Set([FilePath(path)] + parts.map { FilePath("/dev/\($0)") })
        for mount in MountTable.readIfThere() where devices.contains(mount.source) {
            users.append("mounted on \(mount.mountPoint)")
        }
        guard users.isEmpty else { return users }
        // The kernel refuses an exclusive open while it, or a partition of it, is mounted, mapped or swapped on:
        // also by another mount namespace, which the lists above do not show.
        let probe = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | O_EXCL | O_NONBLOCK)
        if probe >= 0 { close(probe) } else if errno == EBUSY { users.append("open elsewhere") }
        return users
    }

    // MARK: the kernel's side

    /// Nil when the device is not attached.
    static func info(_ fd: Int32) throws(Errno) -> loop_info64? {
        var info = loop_info64()
        if unsafe ioctl(fd, UInt(QB_LOOP_GET_STATUS64), &info) == 0 { return info }
        let error = Errno.last
        if error.rawValue == ENXIO { return nil }
        throw error
    }

    static func freeNumber() throws(Errno) -> Int32 {
        let control = OwnedFD(taking: try retrying { unsafe Glibc.open("/dev/loop-control", O_RDWR | O_CLOEXEC) })
        let raw = control.raw
        return try retrying { ioctl(raw, UInt(QB_LOOP_CTL_GET_FREE), 0) }
    }

    /// The device's node. Made here where udev does not: in containers /dev is often not the kernel's.
    static func makeNode(_ number: Int32) throws(Errno) -> String {
        let path = "/dev/loop\(number)"
        if Filesystem.exists(FilePath(path)) { return path }
        let device = try Filesystem.read("/sys/block/loop\(number)/dev").split(separator: "\n").first ?? ""
        let parts = device.split(separator: ":")
        guard parts.count == 2, let major = UInt32(parts[0]), let minor = UInt32(parts[1]) else {
            throw Errno(rawValue: ENODEV)
        }
        if unsafe qb_mknod_block(path, 0o660, major, minor) != 0, errno != EEXIST { throw .last }
        return path
    }
}
