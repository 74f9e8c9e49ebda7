// The part of the FUSE kernel protocol that one regular file needs: operations, sizes, flags. The structs are the
// kernel's own, from linux/fuse.h.
import CQblk
import ImageChain

/// Operations, numbered as in linux/fuse.h (fuse_opcode).
enum FuseOperation {
    static let forget: UInt32 = 2
    static let getAttributes: UInt32 = 3
    static let setAttributes: UInt32 = 4
    static let open: UInt32 = 14
    static let read: UInt32 = 15
    static let write: UInt32 = 16
    static let statFileSystem: UInt32 = 17
    static let release: UInt32 = 18
    static let sync: UInt32 = 20
    static let flush: UInt32 = 25
    static let initialize: UInt32 = 26
    static let access: UInt32 = 34
    static let interrupt: UInt32 = 36
    static let destroy: UInt32 = 38
    static let batchForget: UInt32 = 42
    static let allocate: UInt32 = 43
}

/// Numbers that both sides have agreed on, or that this program chose.
enum FuseLimits {
    /// The protocol version of this program; an older kernel's minor version is used, a newer one's ignored.
    static let major: UInt32 = 7
    static let minor: UInt32 = 38
    /// The oldest protocol whose INIT and READ have the layout used here (kernel 4.20, with MAX_PAGES).
    static let oldestMinor: UInt32 = 28
    /// Bytes of the longest READ: a mount option. 256 pages is the kernel's own limit for one request.
    static let maxRead = 1 << 20
    static let maxPages: UInt16 = 256
    /// Bytes of the longest WRITE. Every request buffer has all of its memory from the beginning (see
    /// `RequestBuffers`).
    static let maxWrite = 128 << 10
    /// The same for a read-only file, which gets no WRITE. The smallest value keeps the request buffers small, because
    /// the kernel demands buffers for the longest possible request.
    static let maxWriteReadOnly = 4096
    /// Bytes in front of a WRITE's data.
    static let writeHead = MemoryLayout<fuse_in_header>.size + MemoryLayout<fuse_write_in>.size
    /// Seconds for which the kernel may use the attributes: for ever, because the size of a map does not change.
    static let attributesValid: UInt64 = 0x7fff_ffff
    /// The file system's root is the file; it has no other.
    static let rootNode: UInt64 = 1

    /// Bytes that one read of /dev/fuse must offer.
    static func requestBytes(maxWrite: Int) -> Int { max(8192, maxWrite + writeHead) }
}

/// A request: its header, checked against the number of bytes that were read, and its body.
@safe struct FuseRequest {
    let header: fuse_in_header
    /// What follows the header.
    let body: UnsafeRawBufferPointer

    /// Nil when the bytes cannot be a request, which the kernel never sends.
    @inline(__always) init?(_ bytes: UnsafeRawPointer, count: Int) {
        let head = MemoryLayout<fuse_in_header>.size
        guard count >= head else { return nil }
        header = unsafe bytes.load(as: fuse_in_header.self)
        guard Int(header.len) == count else { return nil }
        unsafe body = unsafe UnsafeRawBufferPointer(start: bytes + head, count: count - head)
    }

    /// The fixed part of the body; nil when it is cut short.
    @inline(__always) func arguments<T>(_: T.Type) -> T? {
        guard unsafe body.count >= MemoryLayout<T>.size, let start = unsafe body.baseAddress else { return nil }
        return unsafe start.load(as: T.self)
    }
}

/// The file that is served: everything that a reply says about it.
struct FuseFile: Sendable {
    var size: UInt64
    var readOnly: Bool
    /// Bytes: holes smaller than this give no storage back.
    var grain: UInt32

    init(size: UInt64, readOnly: Bool, grain: UInt32 = 512) {
        self.size = size
        self.readOnly = readOnly
        self.grain = grain
    }

    /// The file of an opened image.
    init(_ chain: ImageChain) {
        let cluster = chain.layers.first?.format == .qcow2 ? chain.clusterSize(ofLayer: 0) : 512
        self.init(
            size: chain.size, readOnly: !chain.isWritable,
            grain: chain.isWritable ? UInt32(clamping: max(cluster, 512)) : 512)
    }

    var mode: UInt32 { 0o100000 | (readOnly ? 0o444 : 0o644) }
    var maxWrite: Int { readOnly ? FuseLimits.maxWriteReadOnly : FuseLimits.maxWrite }
}
