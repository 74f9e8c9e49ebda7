// Memory that another process maps too is a file without a name. The seal says that it never gets shorter: who maps
// it need not fear that a page is gone.
import CQblk
import Glibc
public import SystemPackage

/// Zeroed memory behind a descriptor that can be sent to another process.
public struct SharedMemory: ~Copyable, Sendable {
    private let file: OwnedFD
    private let mapping: Mapping

    /// `name` is what /proc shows.
    public init(_ name: String, count: Int) throws(Errno) {
        // MFD_CLOEXEC, MFD_ALLOW_SEALING
        let file = unsafe OwnedFD(taking: try check(qb_memfd_create(name, 0x3)))
        try check(ftruncate(file.raw, off_t(count)))
        // F_SEAL_SHRINK
        try check(fcntl(file.raw, QB_F_ADD_SEALS, 0x2))
        mapping = try Mapping(fd: file.raw, count: count, writable: true)
        self.file = file
    }

    /// Whether a file is nothing but memory: to read it is the same as to look at its mapping, and never waits for a disk.
    public static func isMemory(_ fd: Int32) -> Bool {
        [QB_TMPFS_MAGIC, QB_HUGETLBFS_MAGIC].contains(UInt32(truncatingIfNeeded: qb_filesystem_magic(fd)))
    }

    /// A second descriptor of it, to be sent away.
    public borrowing func duplicateFile() throws(Errno) -> OwnedFD { try file.duplicate() }

    /// The descriptor, for calls and for children that inherit it. Stays this value's.
    public var fd: Int32 { file.raw }
    /// The first byte; valid as long as this value.
    public var pointer: UnsafeMutableRawPointer { unsafe mapping.pointer }
    /// Bytes, as asked for.
    public var count: Int { mapping.count }
}
