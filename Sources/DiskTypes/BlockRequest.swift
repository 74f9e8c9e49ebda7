// The words between the doors and the engine. A door checks what its client sent and makes one of these; behind the
// door it is not checked again, and no code knows which door it was.
#if canImport(Glibc)
    public import Glibc
#else
    public import Darwin
#endif

/// What is asked of the disk. Plain bytes; it names memory, and only who moves the bytes touches it.
@safe @frozen public struct BlockRequest: BitwiseCopyable {
    /// What is to be done with the range.
    @frozen public enum Operation: UInt8, Sendable, BitwiseCopyable {
        case read
        case write
        /// Everything answered before reaches the medium. Has no range.
        case flush
        /// The bytes need not be kept.
        case discard
        /// The bytes read as zeros from now on.
        case writeZeroes
    }
    /// What is to be done.
    public var operation: Operation
    /// Zeros may be made by giving up the storage.
    public var mayUnmap: Bool
    /// The door's number for the request, handed back when it is done.
    public var slot: UInt32
    /// Entries of `iovecs`.
    public var iovecCount: Int32
    /// The range lies inside the disk.
    public var guest: GuestOffset
    /// Bytes of the range; 0 for a flush.
    public var length: UInt64
    /// Where the bytes go or come from, `length` of them in total; nil for operations without.
    public var iovecs: UnsafePointer<iovec>?

    /// A request of a door. The caller has checked that the range lies inside the disk and that `iovecs` has `length`
    /// bytes.
    @inlinable public init(
        _ operation: Operation, slot: UInt32, guest: GuestOffset = GuestOffset(0), length: UInt64 = 0,
        iovecs: UnsafePointer<iovec>? = nil, iovecCount: Int32 = 0, mayUnmap: Bool = false
    ) {
        self.operation = operation
        self.mayUnmap = mayUnmap
        self.slot = slot
        self.iovecCount = iovecCount
        self.guest = guest
        self.length = length
        unsafe self.iovecs = iovecs
    }
}

/// The answer to a request, as every door can give it.
@frozen public enum RequestStatus: UInt8, Sendable, BitwiseCopyable {
    case ok = 0
    case ioError = 1
    case unsupported = 2
}
