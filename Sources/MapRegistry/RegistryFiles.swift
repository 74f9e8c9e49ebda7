// The registry's few system calls: small files that are whole or not there, locks that die with their holder, folders
// that vanish with all they hold.
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

enum RegistryFiles {
    static func error(_ what: String, _ path: FilePath, code: Int32 = errno) -> ImageError {
        ImageError(.system, unsafe "\(what) \(path): \(String(cString: strerror(code)))")
    }

    static func makeFolder(_ path: FilePath) throws(ImageError) {
        if unsafe path.withPlatformString({ unsafe mkdir($0, 0o755) }) != 0, errno != EEXIST {
            throw error("cannot make", path)
        }
    }

    /// All of a file, nil when there is none.
    static func read(_ path: FilePath) throws(ImageError) -> [UInt8]? {
        let fd = path.open(O_RDONLY | O_CLOEXEC)
        if fd < 0 {
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw error("cannot read", path)
        }
        defer { close(fd) }
        var all: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16384)
        while true {
            let count = unsafe Glibc.read(fd, &piece, piece.count)
            if count == 0 { return all }
            if count < 0 {
                if errno == EINTR { continue }
                throw error("cannot read", path)
            }
            all += piece[..<count]
        }
    }

    /// Writes a file so that any reader sees the old bytes or the new ones, never a part.
    static func write(_ bytes: [UInt8], to path: FilePath) throws(ImageError) {
        let fresh = path.extended(".new")
        let fd = fresh.open(O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard fd >= 0 else { throw error("cannot write", fresh) }
        let written = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(fd, $0.baseAddress, $0.count) }
        let code = errno
        guard close(fd) == 0, written == bytes.count else {
            fresh.unlink()
            throw error("cannot write", fresh, code: written < 0 ? code : ENOSPC)
        }
        guard fresh.rename(to: path) == 0 else { throw error("cannot write", path) }
    }

    /// Names in a folder, without `.` and `..`, sorted; none when there is no folder.
    static func names(in folder: FilePath) throws(ImageError) -> [String] {
        do throws(Errno) { return try Filesystem.list(folder) } catch {
            if error == .noSuchFileOrDirectory { return [] }
            throw RegistryFiles.error("cannot list", folder, code: error.rawValue)
        }
    }

    /// Removes a folder of files. A file that something is mounted on stays, and the folder with it: an error.
    static func removeFolder(_ path: FilePath) throws(ImageError) {
        for name in try names(in: path) {
            let file = path.appending(name)
            if file.unlink() != 0, errno != ENOENT { throw error("cannot remove", file) }
        }
        if unsafe path.withPlatformString({ unsafe rmdir($0) }) != 0, errno != ENOENT {
            throw error("cannot remove", path)
        }
    }
}

/// A lock on a file, given up when dropped and by the kernel when its holder dies.
struct FileLock: ~Copyable {
    private let fd: Int32

    /// Takes the lock; nil when another process holds it for all of `timeout` milliseconds.
    init?(_ path: FilePath, timeout: Int) throws(ImageError) {
        var waited = 0
        while true {
            let fd = path.open(O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            guard fd >= 0 else { throw RegistryFiles.error("cannot lock", path) }
            if flock(fd, LOCK_EX | LOCK_NB) == 0 {
                if FileLock.isStill(fd, path) {
                    self.fd = fd
                    return
                }
            } else if errno != EWOULDBLOCK && errno != EINTR {
                let code = errno
                close(fd)
                throw RegistryFiles.error("cannot lock", path, code: code)
            } else if waited >= timeout {
                close(fd)
                return nil
            } else {
                waited += 10
                usleep(10_000)
            }
            close(fd)
        }
    }

    deinit { close(fd) }

    /// A holder removes the file with its folder; a process that waited for it then has a lock on a removed file and must try again.
    private static func isStill(_ fd: Int32, _ path: FilePath) -> Bool {
        var ours = stat()
        guard unsafe fstat(fd, &ours) == 0 else { return false }
        return Filesystem.identity(of: path) == FileIdentity(device: UInt64(ours.st_dev), inode: UInt64(ours.st_ino))
    }
}
