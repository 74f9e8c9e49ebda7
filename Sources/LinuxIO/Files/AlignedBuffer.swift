// Direct I/O wants page-aligned memory, and the data path wants it to exist before the first request. Memory comes
// from mmap: aligned, zeroed, returned to the system when dropped.
import Glibc
public import SystemPackage

/// Page-aligned, zeroed memory with one owner.
public struct AlignedBuffer: ~Copyable, Sendable {
    private let mapping: Mapping
    /// Bytes asked for (the memory behind is rounded up to pages).
    public let count: Int

    /// `count` zeroed bytes. Throws ENOMEM where there is no memory.
    public init(count: Int) throws(Errno) {
        let usable = max(count, 1)
        mapping = try Mapping(anonymous: usable)
        self.count = count
    }

    /// The first byte; valid as long as this value.
    public var pointer: UnsafeMutableRawPointer { unsafe mapping.pointer }
    /// All `count` bytes; valid as long as this value.
    public var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: pointer, count: count)
    }
}

/// A range of this process's address space, unmapped when dropped.
public struct Mapping: ~Copyable, Sendable {
    private let address: UInt
    /// Bytes of the range, as asked for.
    public let count: Int

    /// The first byte; valid as long as this value.
    public var pointer: UnsafeMutableRawPointer {
        // Never zero: mmap without MAP_FIXED does not hand out the null page.
        unsafe UnsafeMutableRawPointer(bitPattern: address).unsafelyUnwrapped
    }

    /// Fresh zeroed memory of this process.
    public init(anonymous count: Int) throws(Errno) {
        try self.init(count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    }

    /// A shared window into a file; `offset` must be a multiple of the page size.
    public init(fd: Int32, offset: UInt64 = 0, count: Int, writable: Bool) throws(Errno) {
        try self.init(count, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, offset)
    }

    private init(_ count: Int, _ protection: Int32, _ flags: Int32, _ fd: Int32, _ offset: UInt64) throws(Errno) {
        guard let place = off_t(exactly: offset) else { throw .invalidArgument }
        let start = unsafe mmap(nil, count, protection, flags, fd, place)
        guard let start = unsafe start, unsafe start != MAP_FAILED else { throw .last }
        address = UInt(bitPattern: start)
        self.count = count
    }

    deinit { unsafe munmap(pointer, count) }
}
