// The FUSE door mounts, and everybody has to know whether a device is mounted before taking it away.
import CQblk
import Glibc
public import SystemPackage

/// The mount and umount2 calls.
public enum Mount {
    /// MS_RDONLY of mount(2).
    public static let readOnly: UInt = 1

    /// mount(2). `flags`: MS_* bits; `data`: options of the file system.
    public static func mount(
        source: FilePath, target: FilePath, type: String, flags: UInt = 0, data: String = ""
    ) throws(Errno) {
        try unsafe check(
            source.withPlatformString { from in
                unsafe target.withPlatformString { unsafe Glibc.mount(from, $0, type, flags, data) }
            })
    }

    /// Takes a mount away. Lazily: out of sight now, truly gone when the last user lets go.
    public static func unmount(_ target: FilePath, lazy: Bool = false) throws(Errno) {
        let flags = Int32(QB_UMOUNT_NOFOLLOW) | (lazy ? Int32(QB_MNT_DETACH) : 0)
        try unsafe check(target.withPlatformString { unsafe umount2($0, flags) })
    }
}

/// One line of the mount table.
public struct MountEntry: Hashable, Sendable {
    /// The mount's number, unique while it lasts.
    public let id: Int
    /// `major:minor` of the mounted file system's device.
    public let device: String
    /// What of the file system is mounted: `/`, or a part.
    public let root: FilePath
    /// Where it is mounted, as seen from this process's root.
    public let mountPoint: FilePath
    /// Options of this mount: `rw,noatime`.
    public let options: String
    /// The kind of file system: `ext4`, `fuse.qblk`.
    public let type: String
    /// The device, or what the file system gives as its source.
    public let source: FilePath
    /// Options of the file system itself.
    public let superOptions: String
}

/// What is mounted, as this process sees it.
public enum MountTable {
    /// All mounts of this process's namespace, as /proc/self/mountinfo lists them.
    public static func read() throws(Errno) -> [MountEntry] {
        parse(try Filesystem.readBytes(path, limit: Filesystem.mostText))
    }

    /// What is mounted, or nothing where the table cannot be read.
    static func readIfThere() -> [MountEntry] {
        do throws(Errno) { return try read() } catch { return [] }
    }

    static let path: FilePath = "/proc/self/mountinfo"

    /// Lines that are not of mountinfo's form are skipped. Paths are bytes; blanks and a few others stand in octal.
    public static func parse(_ bytes: [UInt8]) -> [MountEntry] {
        bytes.split(separator: UInt8(ascii: "\n")).compactMap { line in
            let fields = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false).map(Array.init)
            // After six fixed fields come any number of optional ones, up to a lone "-".
            guard fields.count > 6, let id = Int(text(fields[0])),
                let dash = fields[6...].firstIndex(of: [UInt8(ascii: "-")]), fields.count > dash + 3,
                let root = FilePath(bytes: unescape(fields[3])), let point = FilePath(bytes: unescape(fields[4])),
                let source = FilePath(bytes: unescape(fields[dash + 2]))
            else { return nil }
            return MountEntry(
                id: id, device: text(fields[2]), root: root, mountPoint: point, options: text(fields[5]),
                type: text(unescape(fields[dash + 1])), source: source,
                superOptions: text(unescape(fields[dash + 3])))
        }
    }

    /// What is no path: for people and for comparisons with ASCII words.
    private static func text(_ field: [UInt8]) -> String { String(decoding: field, as: UTF8.self) }

    /// `\040` is a blank, `\011` a tab, and so on.
    static func unescape(_ field: [UInt8]) -> [UInt8] {
        var out: [UInt8] = []
        var i = 0
        while i < field.count {
            if field[i] == UInt8(ascii: "\\"), i + 3 < field.count,
                let code = UInt8(String(decoding: field[(i + 1)...(i + 3)], as: UTF8.self), radix: 8)
            {
                out.append(code)
                i += 4
            } else {
                out.append(field[i])
                i += 1
            }
        }
        return out
    }
}
