// Checks requests that change the disk. They come from the kernel, on behalf of any program; each becomes a range
// inside the disk, or an error, and is not checked again.
import CQblk
import Glibc
import LinuxIO

/// A change that a request asks for, checked.
enum FuseChange: Equatable {
    /// The data is `FuseLimits.writeHead` bytes behind the start of the request.
    case write(offset: UInt64, length: Int)
    /// The bytes read as zeros from now on; with `mayUnmap` their storage may be given back.
    case zero(offset: UInt64, length: UInt64, mayUnmap: Bool)
    /// Everything answered before must be on the disk.
    case flush
    case refused(Int32)

    /// Nil for requests of another kind.
    @inline(__always) init?(_ request: FuseRequest, diskSize: UInt64) {
        switch request.header.opcode {
        case FuseOperation.write: self = Self.write(request, diskSize)
        case FuseOperation.sync, FuseOperation.flush: self = .flush
        case FuseOperation.allocate: self = Self.allocate(request, diskSize)
        default: return nil
        }
    }

    @inline(__always) private static func write(_ request: FuseRequest, _ diskSize: UInt64) -> FuseChange {
        guard let wanted = request.arguments(fuse_write_in.self) else { return .refused(EINVAL) }
        let length = unsafe request.body.count &- MemoryLayout<fuse_write_in>.size
        guard Int(wanted.size) == length, (wanted.offset | UInt64(truncatingIfNeeded: length)) & 511 == 0 else {
            return .refused(EINVAL)
        }
        // A write past the end fails, as on a block device: the disk does not grow.
        guard wanted.offset <= diskSize, UInt64(truncatingIfNeeded: length) <= diskSize &- wanted.offset else {
            return .refused(ENOSPC)
        }
        return .write(offset: wanted.offset, length: length)
    }

    /// The loop driver punches holes both for discards and for zeros that may be unmapped: either way zeros must
    /// follow.
    private static func allocate(_ request: FuseRequest, _ diskSize: UInt64) -> FuseChange {
        guard let wanted = request.arguments(fuse_fallocate_in.self) else { return .refused(EINVAL) }
        let mayUnmap: Bool
        switch Int32(bitPattern: wanted.mode) {
        case HostFile.Allocation.punchHole: mayUnmap = true
        case HostFile.Allocation.zeroRange, Int32(QB_FALLOC_ZERO_RANGE): mayUnmap = false
        default: return .refused(EOPNOTSUPP)
        }
        guard wanted.length > 0, (wanted.offset | wanted.length) & 511 == 0 else { return .refused(EINVAL) }
        guard wanted.offset <= diskSize, wanted.length <= diskSize &- wanted.offset else { return .refused(EFBIG) }
        return .zero(offset: wanted.offset, length: wanted.length, mayUnmap: mayUnmap)
    }

    /// The errno that the kernel gets when a change fails. The kernel takes some numbers for "such requests are unknown
    /// here": a flush that is answered with ENOSYS is never sent again and counts as done, and the loop driver ignores
    /// EINVAL.
    static func error(_ error: Int32) -> Int32 {
        switch error {
        case ENOSYS, EINVAL, EOPNOTSUPP: EIO
        case 1..<512: error
        default: EIO
        }
    }
}
