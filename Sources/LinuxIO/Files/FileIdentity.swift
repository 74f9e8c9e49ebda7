// Two paths may name one file. Chains are checked for loops by identity, never by name.
import CQblk
import Glibc

/// Which file it is, whatever it is called: equal exactly for one and the same inode (or block device).
public struct FileIdentity: Hashable, Sendable, Codable {
    /// Number of the device the file lies on; of the device itself for block devices.
    public let device: UInt64
    /// Inode number; 0 for block devices, whose nodes may be several.
    public let inode: UInt64

    /// An identity that was recorded before.
    public init(device: UInt64, inode: UInt64) {
        self.device = device
        self.inode = inode
    }

    /// `MAJOR:MINOR` of `device`, as /sys and /proc write it.
    public var deviceNumber: String { "\(qb_major(device)):\(qb_minor(device))" }

    init(_ status: stat) {
        let isBlock = status.st_mode & S_IFMT == S_IFBLK
        self.init(device: UInt64(isBlock ? status.st_rdev : status.st_dev), inode: isBlock ? 0 : UInt64(status.st_ino))
    }
}
