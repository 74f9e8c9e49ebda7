// The few things that the control path does to the file system, without Foundation: it would double the program, and
// it hides errno.
import CQblk
import Glibc
public import SystemPackage

/// Small files and directories. Paths are used as given; nothing expands them.
public enum Filesystem {
    /// Whether the path leads to anything. False, too, where the way there may not be searched.
    public static func exists(_ path: FilePath) -> Bool {
        unsafe path.withPlatformString { unsafe access($0, F_OK) } == 0
    }

    /// Whether the path leads to a directory.
    public static func isDirectory(_ path: FilePath) -> Bool {
        path.status().map { $0.st_mode & S_IFMT == S_IFDIR } ?? false
    }

    /// Which file a path leads to; nil when none.
    public static func identity(of path: FilePath) -> FileIdentity? {
        path.status().map(FileIdentity.init)
    }

    /// Makes the directory and those above it. One that is there already is left as it is.
    public static func makeDirectory(_ path: FilePath, mode: UInt32 = 0o755) throws(Errno) {
        var made = path.isAbsolute ? FilePath("/") : FilePath(".")
        for part in path.components {
            made.append(part)
            if unsafe made.withPlatformString({ unsafe mkdir($0, mode) }) == 0 { continue }
            let error = Errno.last
            if !isDirectory(made) { throw error }
        }
    }

    /// Removes a file; true when it was there.
    @discardableResult public static func removeFile(_ path: FilePath) throws(Errno) -> Bool {
        try gone(path.unlink())
    }

    /// Removes an empty directory; true when it was there.
    @discardableResult public static func removeDirectory(_ path: FilePath) throws(Errno) -> Bool {
        try unsafe gone(path.withPlatformString { unsafe rmdir($0) })
    }

    private static func gone(_ result: Int32) throws(Errno) -> Bool {
        if result == 0 { return true }
        let error = Errno.last
        if error == .noSuchFileOrDirectory { return false }
        throw error
    }

    /// The whole of a small text file. Longer than `limit` bytes is an error (EFBIG), not a cut.
    public static func read(_ path: FilePath, limit: Int = 1 << 20) throws(Errno) -> String {
        String(decoding: try readBytes(path, limit: limit), as: UTF8.self)
    }

    /// The text, or nil for whatever reason it cannot be had: for questions where "no" and "unknown" are one answer.
    public static func readIfThere(_ path: FilePath) -> String? {
        do { return try read(path, limit: mostText) } catch { return nil }
    }

    /// More than any table in /proc has on a machine that works.
    static let mostText = 64 << 20

    /// The whole of a small file, also of /proc and /sys, where sizes are not known beforehand.
    public static func readBytes(_ path: FilePath, limit: Int = 1 << 20) throws(Errno) -> [UInt8] {
        let file = OwnedFD(taking: try retrying { path.open(O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) })
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16384)
        while true {
            let raw = file.raw
            let got = try retrying { unsafe Glibc.read(raw, &piece, 16384) }
            if got == 0 { return bytes }
            bytes += piece[..<got]
            if bytes.count > limit { throw Errno(rawValue: EFBIG) }
        }
    }

    /// Writes into an existing file (/sys, /proc) with one call.
    public static func write(_ path: FilePath, _ text: String) throws(Errno) {
        let file = OwnedFD(taking: try retrying { path.open(O_WRONLY | O_CLOEXEC | O_NOCTTY) })
        let raw = file.raw
        let put = try retrying { unsafe Glibc.write(raw, text, text.utf8.count) }
        if put != text.utf8.count { throw .ioError }
    }

    /// Puts a file in place whole: a reader, also after a power cut, sees the old one or the new one.
    public static func writeAtomically(_ path: FilePath, _ text: String, mode: UInt32 = 0o644) throws(Errno) {
        let temporary: FilePath = "\(path).\(getpid()).tmp"
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW
        do throws(Errno) {
            let file = OwnedFD(taking: try retrying { temporary.open(flags, mode) })
            let raw = file.raw
            var bytes = Array(text.utf8)[...]
            while !bytes.isEmpty {
                let put = try retrying {
                    unsafe bytes.withUnsafeBytes { unsafe Glibc.write(raw, $0.baseAddress, $0.count) }
                }
                bytes = bytes.dropFirst(put)
            }
            try retrying { fsync(raw) }
            try file.close()
            try check(temporary.rename(to: path))
        } catch {
            temporary.unlink()
            throw error
        }
        try syncDirectory(of: path)
    }

    private static func syncDirectory(of path: FilePath) throws(Errno) {
        let directory = OwnedFD(taking: try retrying { path.parent.open(O_RDONLY | O_CLOEXEC | O_DIRECTORY) })
        let raw = directory.raw
        // Some file systems cannot sync a directory; then there is nothing to wait for.
        if fsync(raw) != 0, errno != EINVAL { throw .last }
    }

    /// The names, or none where the directory cannot be read.
    public static func listIfThere(_ path: FilePath) -> [String] {
        do { return try list(path) } catch { return [] }
    }

    /// The names in a directory, sorted, without `.` and `..`: of the kernel's folders and of our own. A name that is not
    /// UTF-8, which none of these has, is left out.
    public static func list(_ path: FilePath) throws(Errno) -> [String] {
        guard let stream = unsafe path.withPlatformString({ unsafe opendir($0) }) else { throw .last }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = unsafe readdir(stream) else {
                if errno != 0 { throw .last }
                return names.sorted()
            }
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                unsafe String(validating: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if let name, name != ".", name != ".." { names.append(name) }
        }
    }
}
