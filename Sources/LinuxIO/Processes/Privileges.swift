// Root is not always root: in a container it may lack the capability that a step needs, and in a user namespace it is root
// over nothing but that. Whether a step can work is asked of the kernel's own lists.
import Glibc

/// What this process may do.
public enum Privileges {
    /// Capabilities, numbered as in linux/capability.h.
    public enum Capability: Int, Sendable {
        case ipcLock = 14
        case sysAdmin = 21
        case sysResource = 24

        /// As capabilities(7) names it.
        public var name: String {
            switch self {
            case .ipcLock: "CAP_IPC_LOCK"
            case .sysAdmin: "CAP_SYS_ADMIN"
            case .sysResource: "CAP_SYS_RESOURCE"
            }
        }
    }

    /// Whether the calling process has a capability, in its own user namespace. Without /proc: whether it is root.
    public static func has(_ capability: Capability) -> Bool {
        guard let status = Filesystem.readIfThere("/proc/self/status"),
            let line = status.split(separator: "\n").first(where: { $0.hasPrefix("CapEff:") }),
            let set = UInt64(line.drop { $0 != "\t" }.dropFirst(), radix: 16)
        else { return geteuid() == 0 }
        return set >> UInt64(capability.rawValue) & 1 == 1
    }

    /// Whether the process lives in a user namespace other than the machine's: its root has no say over devices.
    public static var isInUserNamespace: Bool {
        guard let map = Filesystem.readIfThere("/proc/self/uid_map") else { return false }
        return map.split(whereSeparator: \.isWhitespace).map(String.init) != ["0", "0", "4294967295"]
    }

    /// Why this process cannot make block devices; nil where nothing is in the way.
    public static var obstacleToDevices: String? {
        let isRoot = geteuid() == 0
        if isRoot, isInUserNamespace {
            return "this root is one of a user namespace, and block devices need the machine's"
        }
        // What root may do can be given to other users, too.
        if has(.sysAdmin), !isInUserNamespace { return nil }
        return isRoot ? "this root lacks CAP_SYS_ADMIN, which block devices need" : "block devices need root"
    }
}
