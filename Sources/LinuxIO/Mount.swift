// Why this file exists: the FUSE door mounts, and everybody has to know whether a device is mounted before taking it
// away.
import CQblk
import Glibc
public import SystemPackage

/// The mount and umount2 calls.
public enum Mount {
    /// Flags of mount(2), by their kernel names.
    public static let readOnly: UInt = 1
    public static let noSetUserID: UInt = 2
    public static let noDevices: UInt = 4
    public static let noExecution: UInt = 8

    public static func mount(
        source: String, target: String, type: String, flags: UInt = 0, data: String = ""
    ) throws(Errno) {
        try check(Glibc.mount(source, target, type, flags, data))
    }

    /// Takes a mount away. Lazily: out of sight now, truly gone when the last user lets go.
    public static func unmount(_ target: String, lazy: Bool = false) throws(Errno) {
        try check(umount2(target, Int32(QB_UMOUNT_NOFOLLOW) | (lazy ? Int32(QB_MNT_DETACH) : 0)))
    }
}

/// One line of the mount table.
public struct MountEntry: Hashable, Sendable {
    public let id: Int
    /// `major:minor` of the mounted file system's device.
    public let device: String
    /// What of the file system is mounted: `/`, or a part.
    public let root: String
    public let mountPoint: String
    public let options: String
    public let type: String
    public let source: String
    public let superOptions: String
}

/// What is mounted, as this process sees it.
public enum MountTable {
    public static func read() throws(Errno) -> [MountEntry] {
        parse(try Filesystem.read(path, limit: Filesystem.mostText))
    }

    static let path = "/proc/self/mountinfo"

    /// Lines that are not of mountinfo's form are skipped.
    public static func parse(_ text: String) -> [MountEntry] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ", omittingEmptySubsequences: false)
            // After six fixed fields come any number of optional ones, up to a lone "-".
            guard fields.count > 6, let id = Int(fields[0]),
                let dash = fields[6...].firstIndex(of: "-"), fields.count > dash + 3
            else { return nil }
            return MountEntry(
                id: id, device: String(fields[2]), root: unescape(fields[3]), mountPoint: unescape(fields[4]),
                options: String(fields[5]), type: unescape(fields[dash + 1]), source: unescape(fields[dash + 2]),
                superOptions: unescape(fields[dash + 3]))
        }
    }

    /// `\040` is a blank, `\011` a tab, and so on.
    static func unescape(_ field: Substring) -> String {
        guard field.contains("\\") else { return String(field) }
        let bytes = Array(field.utf8)
        var out: [UInt8] = []
        var i = 0
        while i < bytes.count {
            if bytes[i] == UInt8(ascii: "\\"), i + 3 < bytes.count,
                let code = UInt8(String(decoding: bytes[(i + 1)...(i + 3)], as: UTF8.self), radix: 8)
            {
                out.append(code)
                i += 4
            } else {
                out.append(bytes[i])
                i += 1
            }
        }
        return String(decoding: out, as: UTF8.self)
    }
}
