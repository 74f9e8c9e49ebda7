// Which parts of a file take space on the disk: asking for it, giving it back, growing.
import CQblk
public import DiskTypes
import Glibc
import SystemPackage

extension HostFile {
    /// fallocate modes, also for `Ring.prepareFallocate`.
    public enum Allocation {
        /// Gives the space back; the range reads as zeros, the length stays.
        public static let punchHole = Int32(QB_FALLOC_PUNCH_HOLE | QB_FALLOC_KEEP_SIZE)
        /// Zeros that keep their space.
        public static let zeroRange = Int32(QB_FALLOC_ZERO_RANGE | QB_FALLOC_KEEP_SIZE)
        /// Space for a range, the length growing with it.
        public static let reserve: Int32 = 0
    }

    /// A file can; a block device has the length that it has.
    public var canGrow: Bool { !isBlockDevice }

    /// Gives a range's space back where the file system can; what it holds does not matter any more.
    public func discard(at offset: HostOffset, length: UInt64) { _ = try? punchHole(at: offset, length: length) }

    /// Cuts or extends the file to `newLength` bytes; new bytes are a hole.
    public func truncate(to newLength: UInt64) throws(ImageError) {
        guard let size = off_t(exactly: newLength) else { throw failed("resize", EFBIG) }
        while ftruncate(fd, size) != 0 {
            if errno != EINTR { throw failed("resize to \(newLength) bytes") }
        }
        knownLength.store(newLength, ordering: .relaxed)
        leastLength.store(newLength, ordering: .relaxed)
    }

    /// Makes a range read as zeros and gives its space back. False where the file system cannot; nothing changed then.
    public func punchHole(at offset: HostOffset, length: UInt64) throws(ImageError) -> Bool {
        try allocate(Allocation.punchHole, offset, length, "punch a hole")
    }

    /// Makes a range read as zeros and keeps its space. False where the file system cannot; nothing changed then.
    public func zeroRange(at offset: HostOffset, length: UInt64) throws(ImageError) -> Bool {
        try allocate(Allocation.zeroRange, offset, length, "zero a range")
    }

    /// Claims space on the disk for a range, so that writes there cannot fail for want of it.
    public func reserve(at offset: HostOffset, length: UInt64) throws(ImageError) -> Bool {
        let done = try allocate(Allocation.reserve, offset, length, "reserve space")
        if done { grow(to: try presentLength()) }
        return done
    }

    private func allocate(
        _ mode: Int32, _ offset: HostOffset, _ length: UInt64, _ verb: String
    ) throws(ImageError) -> Bool {
        while qb_fallocate(fd, mode, offset.bytes, length) != 0 {
            switch errno {
            case EINTR: continue
            case EOPNOTSUPP, ENOSYS: return false
            default: throw failed(verb, at: offset)
            }
        }
        return true
    }

    /// The first byte from `offset` on that is not in a hole; nil when only hole is left.
    public func nextData(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        try seek(offset, Int32(QB_SEEK_DATA), unsupported: offset)
    }

    /// The first byte from `offset` on that is in a hole; the file's end counts as one. Nil past the end.
    public func nextHole(from offset: HostOffset) throws(ImageError) -> HostOffset? {
        try seek(offset, Int32(QB_SEEK_HOLE), unsupported: HostOffset(try presentLength()))
    }

    /// `unsupported`: the answer where the file knows no holes (block devices): all of it is data.
    private func seek(
        _ offset: HostOffset, _ whence: Int32, unsupported: HostOffset
    ) throws(ImageError) -> HostOffset? {
        guard let start = off_t(exactly: offset.bytes) else { return nil }
        let found = lseek(fd, start, whence)  // moves the file's position, which nothing here uses
        if found >= 0 { return HostOffset(UInt64(found)) }
        switch errno {
        case ENXIO: return nil
        case EINVAL, EOPNOTSUPP: return offset.bytes < (try presentLength()) ? unsupported : nil
        default: throw failed("look for holes", at: offset)
        }
    }
}
