// Device-mapper and the kernel's own block users want block devices; a loop device makes one of a file. Others take
// loop devices at the same time, so every step expects to lose a race.
import CQblk
public import DiskTypes
import Glibc
import Synchronization
public import SystemPackage

/// A loop device by its number, attached or not.
public struct LoopDevice: Sendable {
    /// N of /dev/loopN.
    public let number: Int32
    /// `/dev/loopN`, there when this value is.
    public let path: String
    /// Direct I/O was granted when this value was made. The kernel falls back without a word where it cannot.
    public let usesDirectIO: Bool
    /// Keeps an auto-clearing device from clearing before its user has it open.
    let handle: LoopHandle?

    /// Attaches `fd` to a free loop device. The device keeps a reference to the open file description, with its locks.
    ///
    /// With `autoClear` the device detaches when its last user closes it. Until `release()`, or until this value and its
    /// copies are dropped, the value is such a user.
    /// `name` is what losetup shows if the kernel has no path, at most 63 bytes. `blockSize` 0 leaves it to the kernel.
    public static func attach(
        fd: Int32, readOnly: Bool, directIO: Bool = true, partitionScan: Bool = false, autoClear: Bool = false,
        blockSize: UInt32 = 0, offset: UInt64 = 0, sizeLimit: UInt64 = 0, name: FilePath
    ) throws(ImageError) -> LoopDevice {
        var config = loop_config()
        config.fd = UInt32(bitPattern: fd)
        config.block_size = blockSize
        config.info.lo_offset = offset
        config.info.lo_sizelimit = sizeLimit
        config.info.lo_flags =
            (readOnly ? QB_LO_FLAGS_READ_ONLY : 0) | (directIO ? QB_LO_FLAGS_DIRECT_IO : 0)
            | (partitionScan ? QB_LO_FLAGS_PARTSCAN : 0) | (autoClear ? QB_LO_FLAGS_AUTOCLEAR : 0)
        unsafe withUnsafeMutableBytes(of: &config.info.lo_file_name) { field in
            unsafe field.copyBytes(from: name.bytes.prefix(field.count - 1))
        }
        do throws(Errno) {
            // Free numbers are handed out without being reserved: another process may be faster, again and again.
            for _ in 0..<100 {
                let number = try freeNumber()
                if let device = try configure(number, config, readOnly: readOnly, autoClear: autoClear) {
                    return device
                }
            }
            throw .resourceBusy
        } catch {
            throw loopError("attach the file to a loop device", error)
        }
    }

    /// One attempt on one device; nil when another process was faster.
    private static func configure(
        _ number: Int32, _ config: loop_config, readOnly: Bool, autoClear: Bool
    ) throws(Errno) -> LoopDevice? {
        let node = try makeNode(number)
        let device: OwnedFD
        do throws(Errno) {
            device = OwnedFD(
                taking: try retrying { unsafe Glibc.open(node, (readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC) })
        } catch {
            if error.rawValue == ENXIO || error == .noSuchFileOrDirectory { return nil }
            throw error
        }
        var request = config
        if unsafe ioctl(device.raw, UInt(QB_LOOP_CONFIGURE), &request) != 0 {
            let error = Errno.last
            if error == .resourceBusy { return nil }
            throw error
        }
        let flags = try info(device.raw)?.lo_flags ?? 0
        if !readOnly && flags & QB_LO_FLAGS_READ_ONLY != 0 {
            // The kernel makes it read-only by itself when the descriptor is; a caller who wants to write must know.
            _ = ioctl(device.raw, UInt(QB_LOOP_CLR_FD), 0)
            throw .readOnlyFileSystem
        }
        let direct = flags & QB_LO_FLAGS_DIRECT_IO != 0
        return LoopDevice(
            number: number, path: node, usesDirectIO: direct, handle: autoClear ? LoopHandle(device) : nil)
    }

    /// The loop device with this number, attached or not. Its file is not asked: that may have no server any more.
    public static func open(_ number: Int32) throws(ImageError) -> LoopDevice {
        do throws(Errno) {
            let path = try makeNode(number)
            return LoopDevice(number: number, path: path, usesDirectIO: usesDirectIO(number), handle: nil)
        } catch {
            throw loopError("open loop device \(number)", error)
        }
    }

    /// The attached loop devices, those whose file cannot be reached any more included (so no `status()` without need).
    /// One that goes away meanwhile is left out.
    public static func all() throws(ImageError) -> [LoopDevice] {
        let names: [String]
        do throws(Errno) { names = try Filesystem.list("/sys/block") } catch { throw loopError("list devices", error) }
        return names.compactMap { name in
            guard name.hasPrefix("loop"), let number = Int32(name.dropFirst(4)),
                Filesystem.exists("/sys/block/\(name)/loop/backing_file")
            else { return nil }
            return LoopDevice(number: number, path: "/dev/\(name)", usesDirectIO: usesDirectIO(number), handle: nil)
        }.sorted { $0.number < $1.number }
    }

    private static func usesDirectIO(_ number: Int32) -> Bool {
        Filesystem.readIfThere("/sys/block/loop\(number)/loop/dio")?.hasPrefix("1") ?? false
    }

    /// Detaches the file: at once, or when the last user closes the device. Not attached is no error.
    public func detach() throws(ImageError) {
        do throws(Errno) {
            try withDevice { fd throws(Errno) in
                if ioctl(fd, UInt(QB_LOOP_CLR_FD), 0) != 0, errno != ENXIO { throw .last }
            }
            handle?.close()
        } catch {
            throw LoopDevice.loopError("detach \(path)", error)
        }
    }

    /// Stops being a user of the device: an auto-clearing one detaches now unless another process has it open.
    public func release() { handle?.close() }

    /// Takes over a new length of the file, while the device is in use.
    public func setCapacity() throws(ImageError) {
        do throws(Errno) {
            try withDevice { fd throws(Errno) in _ = try check(ioctl(fd, UInt(QB_LOOP_SET_CAPACITY), 0)) }
        } catch {
            throw LoopDevice.loopError("resize \(path)", error)
        }
    }

    /// Runs `body` on a descriptor of the device: the held one or one for the moment.
    func withDevice<R>(_ body: (Int32) throws(Errno) -> R) throws(Errno) -> R {
        if let handle { return try handle.withDescriptor(or: path, body) }
        let device = OwnedFD(taking: try retrying { unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC) })
        return try body(device.raw)
    }

    static func loopError(_ verb: String, _ error: Errno) -> ImageError {
        let advice: String? =
            switch error {
            case .notPermitted, .permissionDenied: "loop devices need root"
            case .readOnlyFileSystem: "the file is open for reading only"
            case .noSuchFileOrDirectory, Errno(rawValue: ENODEV): "this kernel has no loop devices (modprobe loop)"
            default: nil
            }
        return ImageError(
            .system, "cannot \(verb): \(errorText(error.rawValue))", advice: advice, number: error.rawValue)
    }
}

/// The open descriptor of an auto-clearing loop device.
final class LoopHandle: Sendable {
    private let owned: Mutex<OwnedFD?>

    init(_ device: consuming OwnedFD) { owned = Mutex(device) }

    func close() { owned.withLock { $0 = nil } }

    func withDescriptor<R>(or path: String, _ body: (Int32) throws(Errno) -> R) throws(Errno) -> R {
        let raw = owned.withLock { $0?.raw ?? -1 }
        if raw >= 0 { return try body(raw) }
        let device = OwnedFD(taking: try retrying { unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC) })
        return try body(device.raw)
    }
}
