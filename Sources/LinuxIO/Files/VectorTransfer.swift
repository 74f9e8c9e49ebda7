// Plain calls that move a list of memory ranges: short work needs no ring.
public import CQblk
import Glibc

/// preadv2(2) and pwritev(2) on a list of memory ranges. Offsets are bytes of the file.
public enum VectorTransfer {
    /// Fills the ranges from `offset` on, without waiting for a disk: bytes moved, or -1 and errno (EAGAIN; EOPNOTSUPP where
    /// the file system cannot promise that).
    public static func readNow(_ fd: Int32, _ ranges: UnsafePointer<iovec>, _ count: Int, at offset: UInt64) -> Int {
        unsafe qb_preadv_now(fd, ranges, Int32(truncatingIfNeeded: count), offset)
    }

    /// Writes the ranges from `offset` on: bytes moved, or -1 and errno.
    public static func write(_ fd: Int32, _ ranges: UnsafePointer<iovec>, _ count: Int, at offset: UInt64) -> Int {
        unsafe pwritev(fd, ranges, Int32(truncatingIfNeeded: count), off_t(truncatingIfNeeded: offset))
    }
}
