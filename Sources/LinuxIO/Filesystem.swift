// Why this file exists: the few things that the control path does to the file system, without Foundation: it would
// double the program, and it hides errno.
import CQblk
import Glibc
public import SystemPackage

/// Small files and directories. Paths are used as given; nothing expands them.
public enum Filesystem {
    public static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    public static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    /// Which file a path leads to; nil when none.
    public static func identity(of path: String) -> FileIdentity? {
        var status = stat()
        return stat(path, &status) == 0 ? FileIdentity(status) : nil
    }

    /// Makes the directory and those above it. One that is there already is left as it is.
    public static func makeDirectory(_ path: String, mode: UInt32 = 0o755) throws(Errno) {
        var made = path.hasPrefix("/") ? "" : "."
        for part in path.split(separator: "/") {
            made += "/" + part
            if mkdir(made, mode) == 0 { continue }
            let error = Errno.last
            if !isDirectory(made) { throw error }
        }
    }

    /// Removes a file; true when it was there.
    @discardableResult public static func removeFile(_ path: String) throws(Errno) -> Bool {
        try gone(unlink(path))
    }

    /// Removes an empty directory; true when it was there.
    @discardableResult public static func removeDirectory(_ path: String) throws(Errno) -> Bool {
        try gone(rmdir(path))
    }

    private static func gone(_ result: Int32) throws(Errno) -> Bool {
        if result == 0 { return true }
        let error = Errno.last
        if error == .noSuchFileOrDirectory { return false }
        throw error
    }

    /// The whole of a small text file. Longer than `limit` bytes is an error (EFBIG), not a cut.
    public static func read(_ path: String, limit: Int = 1 << 20) throws(Errno) -> String {
        String(decoding: try readBytes(path, limit: limit), as: UTF8.self)
    }

    /// The text, or nil for whatever reason it cannot be had: for questions where "no" and "unknown" are one answer.
    public static func readIfThere(_ path: String) -> String? {
        do { return try read(path, limit: mostText) } catch { return nil }
    }

    /// More than any table in /proc has on a machine that works.
    static let mostText = 64 << 20

    /// The whole of a small file, also of /proc and /sys, where sizes are not known beforehand.
    public static func readBytes(_ path: String, limit: Int = 1 << 20) throws(Errno) -> [UInt8] {
        let file = OwnedFD(taking: try retrying { Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) })
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16384)
        while true {
            let raw = file.raw
            let got = try retrying { Glibc.read(raw, &piece, 16384) }
            if got == 0 { return bytes }
            bytes += piece[..<got]
            if bytes.count > limit { throw Errno(rawValue: EFBIG) }
        }
    }

    /// Writes into an existing file (/sys, /proc) with one call.
    public static func write(_ path: String, _ text: String) throws(Errno) {
        let file = OwnedFD(taking: try retrying { Glibc.open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY) })
        let raw = file.raw
        let put = try retrying { Glibc.write(raw, text, text.utf8.count) }
        if put != text.utf8.count { throw .ioError }
    }

    /// Puts a file in place whole: whoever looks, also after a power cut, sees the old one or the new one.
    public static func writeAtomically(_ path: String, _ text: String, mode: UInt32 = 0o644) throws(Errno) {
        let temporary = "\(path).\(getpid()).tmp"
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW
        do throws(Errno) {
            let file = OwnedFD(taking: try retrying { Glibc.open(temporary, flags, mode) })
            let raw = file.raw
            var bytes = Array(text.utf8)[...]
            while !bytes.isEmpty {
                let put = try retrying { bytes.withUnsafeBytes { Glibc.write(raw, $0.baseAddress, $0.count) } }
                bytes = bytes.dropFirst(put)
            }
            try retrying { fsync(raw) }
            try file.close()
            try check(rename(temporary, path))
        } catch {
            unlink(temporary)
            throw error
        }
        try syncDirectory(of: path)
    }

    private static func syncDirectory(of path: String) throws(Errno) {
        let parent = parent(of: path)
        let directory = OwnedFD(taking: try retrying { Glibc.open(parent, O_RDONLY | O_CLOEXEC | O_DIRECTORY) })
        let raw = directory.raw
        // Some file systems cannot sync a directory; then there is nothing to wait for.
        if fsync(raw) != 0, errno != EINVAL { throw .last }
    }

    /// The directory that a path lies in, by its text alone.
    public static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// The path without symbolic links, `.` and `..`; the file must be there.
    public static func realPath(_ path: String) throws(Errno) -> String {
        guard let real = realpath(path, nil) else { throw .last }
        defer { free(real) }
        return String(cString: real)
    }

    /// The names, or none where the directory cannot be read.
    public static func listIfThere(_ path: String) -> [String] {
        do { return try list(path) } catch { return [] }
    }

    /// The names in a directory, sorted, without `.` and `..`.
    public static func list(_ path: String) throws(Errno) -> [String] {
        guard let stream = opendir(path) else { throw .last }
        defer { closedir(stream) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = readdir(stream) else {
                if errno != 0 { throw .last }
                return names.sorted()
            }
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != "." && name != ".." { names.append(name) }
        }
    }
}
