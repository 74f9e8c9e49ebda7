// Builds every reply except READ's data, as bytes. Nothing here is on the data path; golden tests hold all of it,
// because a wrong byte makes a mount hang.
import CQblk
import Glibc

/// Builds replies in a buffer of `capacity` bytes, one at a time.
struct FuseReplies {
    static let capacity = 256
    static let headerSize = MemoryLayout<fuse_out_header>.size

    let file: FuseFile

    /// Writes a header; returns the length of the whole reply.
    @inline(__always) static func header(
        _ out: UnsafeMutableRawPointer, unique: UInt64, error: Int32 = 0, payload: Int = 0
    ) -> Int {
        let length = headerSize + payload
        let header = fuse_out_header(len: UInt32(truncatingIfNeeded: length), error: 0 &- error, unique: unique)
        unsafe out.storeBytes(of: header, as: fuse_out_header.self)
        return length
    }

    /// The answer to a WRITE.
    @inline(__always) static func written(_ out: UnsafeMutableRawPointer, unique: UInt64, bytes: Int) -> Int {
        unsafe (out + headerSize).storeBytes(
            of: fuse_write_out(size: UInt32(truncatingIfNeeded: bytes), padding: 0), as: fuse_write_out.self)
        return unsafe header(out, unique: unique, payload: MemoryLayout<fuse_write_out>.size)
    }

    private func reply<T>(_ out: UnsafeMutableRawPointer, _ unique: UInt64, _ payload: T) -> Int {
        unsafe (out + Self.headerSize).storeBytes(of: payload, as: T.self)
        return unsafe Self.header(out, unique: unique, payload: MemoryLayout<T>.size)
    }

    /// Writes the answer to any request but READ and, where the file can be written, those of `FuseChange`. Returns its
    /// length; 0: the request gets no answer.
    func answer(_ request: FuseRequest, into out: UnsafeMutableRawPointer) -> Int {
        let unique = request.header.unique
        switch request.header.opcode {
        case FuseOperation.forget, FuseOperation.batchForget: return 0
        case FuseOperation.initialize: return unsafe initialize(request, out)
        case FuseOperation.getAttributes: return unsafe reply(out, unique, attributes)
        case FuseOperation.open: return unsafe open(request, out)
        case FuseOperation.statFileSystem: return unsafe reply(out, unique, fileSystem)
        case FuseOperation.release, FuseOperation.flush, FuseOperation.sync, FuseOperation.destroy:
            return unsafe Self.header(out, unique: unique)
        case FuseOperation.setAttributes where !file.readOnly: return unsafe setAttributes(request, out)
        case FuseOperation.write, FuseOperation.allocate, FuseOperation.setAttributes:
            return unsafe Self.header(out, unique: unique, error: EROFS)
        default:
            // ENOSYS is answered once: the kernel remembers it and decides by itself from then on (access, extended
            // attributes, lseek, interrupt, ioctl, poll, locks).
            return unsafe Self.header(out, unique: unique, error: ENOSYS)
        }
    }

    /// INIT: accepts what this program can do of what the kernel offers.
    private func initialize(_ request: FuseRequest, _ out: UnsafeMutableRawPointer) -> Int {
        guard let offer = unsafe FuseInitOffer(request.body), offer.major == FuseLimits.major,
            offer.minor >= FuseLimits.oldestMinor
        else { return unsafe Self.header(out, unique: request.header.unique, error: EPROTO) }
        let flags = FuseReplies.wanted & offer.flags
        var accepted = fuse_init_out()
        accepted.major = FuseLimits.major
        accepted.minor = FuseLimits.minor
        accepted.max_readahead = offer.maxReadahead
        accepted.flags = UInt32(truncatingIfNeeded: flags)
        accepted.flags2 = UInt32(truncatingIfNeeded: flags >> 32)
        // Direct reads of the loop driver count as background requests: the default of 12 would limit the queue depth.
        accepted.max_background = UInt16.max
        accepted.congestion_threshold = UInt16.max
        accepted.max_write = UInt32(truncatingIfNeeded: file.maxWrite)
        accepted.time_gran = 1
        accepted.max_pages = FuseLimits.maxPages
        return unsafe reply(out, request.header.unique, accepted)
    }

    /// The flags that are accepted if offered. ASYNC_DIO is needed for speed: without it the loop driver sends one
    /// request at a time.
    static let wanted: UInt64 = {
        let flags: [UInt] = [
            QB_FUSE_ASYNC_READ, QB_FUSE_BIG_WRITES, QB_FUSE_ASYNC_DIO, QB_FUSE_PARALLEL_DIROPS, QB_FUSE_MAX_PAGES,
            QB_FUSE_INIT_EXT, QB_FUSE_HAS_RESEND,
        ]
        return UInt64(flags.reduce(0, |))
    }()

    private func open(_ request: FuseRequest, _ out: UnsafeMutableRawPointer) -> Int {
        let unique = request.header.unique
        guard let open = request.arguments(fuse_open_in.self) else {
            return unsafe Self.header(out, unique: unique, error: EINVAL)
        }
        if file.readOnly, open.flags & UInt32(O_ACCMODE) != UInt32(O_RDONLY) {
            return unsafe Self.header(out, unique: unique, error: EROFS)
        }
        var opened = fuse_open_out()
        opened.open_flags = QB_FOPEN_DIRECT_IO | QB_FOPEN_PARALLEL_DIRECT_WRITES | QB_FOPEN_KEEP_CACHE
        if file.readOnly { opened.open_flags |= QB_FOPEN_NOFLUSH }
        return unsafe reply(out, unique, opened)
    }

    /// Times are accepted and mean nothing; size, mode and owner stay as they are.
    private func setAttributes(_ request: FuseRequest, _ out: UnsafeMutableRawPointer) -> Int {
        let unique = request.header.unique
        guard let wanted = request.arguments(fuse_setattr_in.self) else {
            return unsafe Self.header(out, unique: unique, error: EINVAL)
        }
        let mode: UInt32 = 1 << 0
        let owner: UInt32 = 1 << 1 | 1 << 2
        let size: UInt32 = 1 << 3
        guard wanted.valid & (mode | owner) == 0, wanted.valid & size == 0 || wanted.size == file.size else {
            return unsafe Self.header(out, unique: unique, error: EPERM)
        }
        return unsafe reply(out, unique, attributes)
    }

    private var attributes: fuse_attr_out {
        var out = fuse_attr_out()
        out.attr_valid = FuseLimits.attributesValid
        out.attr.ino = FuseLimits.rootNode
        out.attr.size = file.size
        out.attr.blocks = file.size / 512
        out.attr.mode = file.mode
        out.attr.nlink = 1
        out.attr.blksize = 4096
        return out
    }

    private var fileSystem: fuse_statfs_out {
        var out = fuse_statfs_out()
        // The loop driver discards in blocks of this size.
        out.st.bsize = file.grain
        out.st.frsize = 512
        out.st.blocks = file.size / 512
        out.st.files = 1
        out.st.namelen = 255
        return out
    }
}

/// What the kernel offers in INIT: the start of fuse_init_in, which grew over time.
struct FuseInitOffer {
    let major: UInt32
    let minor: UInt32
    let maxReadahead: UInt32
    let flags: UInt64

    init?(_ body: UnsafeRawBufferPointer) {
        guard body.count >= 16 else { return nil }
        major = unsafe body.load(fromByteOffset: 0, as: UInt32.self)
        minor = unsafe body.load(fromByteOffset: 4, as: UInt32.self)
        maxReadahead = unsafe body.load(fromByteOffset: 8, as: UInt32.self)
        let low = unsafe UInt64(body.load(fromByteOffset: 12, as: UInt32.self))
        // flags2 is there only when the kernel says so; older kernels have other bytes, or none, in its place.
        let extended = low & UInt64(QB_FUSE_INIT_EXT) != 0 && body.count >= 20
        flags = unsafe low | (extended ? UInt64(body.load(fromByteOffset: 16, as: UInt32.self)) << 32 : 0)
    }

    var canResend: Bool { flags & UInt64(QB_FUSE_HAS_RESEND) != 0 }
}
