// A file that holds image data, opened so that a hostile path can do no harm: only regular files and block devices,
// never a wait. Opening changes nothing in the file.
import CQblk
public import DiskTypes
import Glibc
import Synchronization
public import SystemPackage

/// An open image, backing or data file of the host. May be used from any number of threads at once.
public final class HostFile: Sendable, ResizableStorage {
    /// Whether to look for a second, cache-bypassing descriptor.
    public enum DirectMode: Sendable { case never, ifPossible }

    /// The path it was opened by, or what messages call it.
    public let path: FilePath
    /// It was opened for writing.
    public let isWritable: Bool
    /// It is a block device, whose length is fixed and whose old bytes are unknown.
    public let isBlockDevice: Bool
    /// The file lies in memory (tmpfs): reads never wait for a disk, and `fd` keeps O_NONBLOCK, with which io_uring
    /// answers them at once instead of through a worker thread.
    public let isTmpfs: Bool
    /// Which file it is, to see that two paths are the same one.
    public let identity: FileIdentity
    /// The descriptor that goes through the page cache. Metadata belongs here, and locks hang on it.
    public var fd: Int32 { buffered.raw }
    /// The descriptor that bypasses the page cache (O_DIRECT), or -1.
    public let directFD: Int32
    /// What addresses of memory handed to `directFD` must be multiples of. 1 without `directFD`.
    public let directMemoryAlignment: Int
    /// What offsets and lengths on `directFD` must be multiples of. 1 without `directFD`.
    public let directOffsetAlignment: Int

    private let buffered: OwnedFD
    private let direct: OwnedFD?
    let knownLength: Atomic<UInt64>
    /// Bytes that the file has for certain, unless another program cut it: see `requireBytes`.
    let leastLength: Atomic<UInt64>
    /// A mapping shows what the kernel has in memory, and the kernel tells this process the truth about that.
    private let hasPages: Bool
    private let window = Mutex<PageCacheMapping?>(nil)

    /// Length in bytes when opened, or since the last write, truncation or `currentLength()` through this object.
    public var length: UInt64 { knownLength.load(ordering: .relaxed) }

    /// Opens the file at `path`, following symbolic links.
    public static func open(
        path: FilePath, writable: Bool = false, direct: DirectMode = .ifPossible
    ) throws(ImageError) -> HostFile {
        try open(path, shownAs: path, writable, direct)
    }

    private static func open(
        _ place: FilePath, shownAs path: FilePath, _ writable: Bool, _ direct: DirectMode
    ) throws(ImageError) -> HostFile {
        // Looked at before opening: to open a device can rewind a tape or arm a watchdog.
        if let status = place.status() { try refuseUnlessData(status) }
        let flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY
        let raw: Int32
        do throws(Errno) {
            raw = try openQuietly(place, flags)
        } catch {
            throw ImageError(
                .system, "cannot open\(writable ? " for writing" : ""): \(errorText(error.rawValue))", path: path,
                number: error.rawValue)
        }
        return try adopt(OwnedFD(taking: raw), path: path, writable: writable, direct: direct)
    }

    /// Reads that leave the time of access alone are cheaper, and change nothing on the disk. Only the file's owner (and
    /// root) may have that.
    private static func openQuietly(_ path: FilePath, _ flags: Int32) throws(Errno) -> Int32 {
        let quiet = path.open(flags | Int32(QB_O_NOATIME))
        return quiet >= 0 ? quiet : try retrying { path.open(flags) }
    }

    /// Opens anew the file behind a descriptor, with an open file description of its own, whatever became of its name.
    /// `path` is what messages call it. The descriptor stays the caller's.
    public static func reopen(
        _ descriptor: Int32, path: FilePath, writable: Bool, direct: DirectMode = .ifPossible
    ) throws(ImageError) -> HostFile {
        do throws(ImageError) {
            return try open("/proc/self/fd/\(descriptor)", shownAs: path, writable, direct)
        } catch { throw error.named(path) }
    }

    /// Goes on with the open file description behind a descriptor, and the locks on it. The descriptor stays the caller's.
    public static func share(
        _ descriptor: Int32, path: FilePath, writable: Bool, direct: DirectMode = .ifPossible
    ) throws(ImageError) -> HostFile {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else {
            throw ImageError(.system, "cannot be used: \(errorText(errno))", path: path, number: errno)
        }
        return try adopt(OwnedFD(taking: copy), path: path, writable: writable, direct: direct)
    }

    /// Takes over a descriptor that is open already: inherited, or received over a socket.
    public static func adopt(
        _ owned: consuming OwnedFD, path: FilePath, writable: Bool, direct: DirectMode = .ifPossible
    ) throws(ImageError) -> HostFile {
        do {
            return try HostFile(owned, path: path, writable: writable, direct: direct)
        } catch {
            throw error.named(path)
        }
    }

    private init(
        _ owned: consuming OwnedFD, path: FilePath, writable: Bool, direct mode: DirectMode
    ) throws(ImageError) {
        // Everything that can fail comes first, on locals: a half-made object with noncopyable parts cannot be undone.
        let raw = owned.raw
        let status = try HostFile.status(of: raw)
        try HostFile.refuseUnlessData(status)
        let isBlock = status.st_mode & S_IFMT == S_IFBLK
        let size = try HostFile.size(of: raw, status)
        let magic = UInt32(truncatingIfNeeded: qb_filesystem_magic(raw))
        let inMemory = !isBlock && (magic == QB_TMPFS_MAGIC || magic == QB_RAMFS_MAGIC)
        let flags = fcntl(raw, F_GETFL)
        if flags >= 0 { _ = fcntl(raw, F_SETFL, inMemory ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) }
        // tmpfs has nothing to bypass: its page cache is the storage.
        let way =
            mode == .never || inMemory
            ? nil : DirectAccess.probe(raw, writable: writable, isBlockDevice: isBlock, length: size)
        self.path = path
        isWritable = writable
        isBlockDevice = isBlock
        isTmpfs = inMemory
        let isKnown = [QB_TMPFS_MAGIC, QB_EXT4_MAGIC, QB_XFS_MAGIC].contains(magic)
        hasPages = !isBlock && isKnown && (writable || geteuid() == 0 || geteuid() == status.st_uid)
        identity = FileIdentity(status)
        directFD = way?.fd ?? -1
        directMemoryAlignment = way?.memory ?? 1
        directOffsetAlignment = way?.offset ?? 1
        if let way { direct = OwnedFD(taking: way.fd) } else { direct = nil }
        knownLength = Atomic(size)
        leastLength = Atomic(size)
        buffered = owned
    }

    /// Asks the system for the length, which `length` is from here on: files grow, devices are resized. Whatever was known
    /// before is forgotten: only for who has just got the file to itself.
    public func currentLength() throws(ImageError) -> UInt64 {
        let size = try presentLength()
        knownLength.store(size, ordering: .relaxed)
        leastLength.store(size, ordering: .relaxed)
        return size
    }

    /// The length in bytes as the system has it now. `length` stays as it is.
    public func presentLength() throws(ImageError) -> UInt64 {
        do {
            return try HostFile.size(of: fd, try HostFile.status(of: fd))
        } catch {
            throw error.named(path)
        }
    }

    /// The file's pages in memory, for transfers without system calls; nil where that cannot be. `room`: how large the
    /// file may become; asked once, the first answer stays.
    public func pages(room: UInt64) -> PageCacheMapping? {
        guard hasPages else { return nil }
        return window.withLock { window in
            if window == nil {
                window = PageCacheMapping(fd: fd, room: max(room, length), writable: isWritable, inMemory: isTmpfs)
            }
            return window
        }
    }

    /// Bytes that the file takes on its file system, holes not counted.
    public func diskUsage() throws(ImageError) -> UInt64 {
        let status = try HostFile.status(of: fd)
        return isBlockDevice ? length : UInt64(clamping: status.st_blocks) &* 512
    }
}

extension HostFile {
    static func status(of fd: Int32) throws(ImageError) -> stat {
        var status = stat()
        guard unsafe fstat(fd, &status) == 0 else {
            throw ImageError(.system, "cannot look at the file: \(errorText(errno))", number: errno)
        }
        return status
    }

    static func size(of fd: Int32, _ status: stat) throws(ImageError) -> UInt64 {
        guard status.st_mode & S_IFMT == S_IFBLK else { return UInt64(clamping: status.st_size) }
        var bytes: UInt64 = 0
        guard unsafe ioctl(fd, UInt(QB_BLKGETSIZE64), &bytes) == 0 else {
            throw ImageError(.system, "cannot ask the device for its size: \(errorText(errno))", number: errno)
        }
        return bytes
    }

    /// Throws for everything that is neither a regular file nor a block device.
    static func refuseUnlessData(_ status: stat) throws(ImageError) {
        let kind: String
        switch status.st_mode & S_IFMT {
        case S_IFREG, S_IFBLK: return
        case S_IFDIR: kind = "a directory"
        case S_IFIFO: kind = "a FIFO"
        case S_IFSOCK: kind = "a socket"
        case S_IFCHR: kind = "a character device"
        default: kind = "of an unknown file type"
        }
        throw ImageError(.reference, "is \(kind)", advice: "name a regular file or a block device")
    }
}
