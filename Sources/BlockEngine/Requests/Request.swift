// What the engine remembers about work in flight, as plain bytes. All of it lives in slabs that
// are allocated once; records refer to each other by index, so nothing here is counted, boxed or moved.
import DiskTypes
import Glibc
import LinuxIO

/// One request of the door. Its index is the door's slot number.
struct Request: Linked {
    typealias Index = RequestIndex

    enum State: UInt8, BitwiseCopyable {
        case free
        /// Its extents are being looked up, now or after a wait.
        case advancing
        /// Waits for a mapping table that is being read.
        case needsTable
        /// Waits for transfers or buffers that others hold.
        case waitingForResources
        /// Waits for the file to be flushed.
        case syncing
        /// Everything is issued (or an error ended the advance); it finishes with its last transfer.
        case draining
        /// In the queue of finished requests.
        case finished
    }

    /// Guest position of the request's first byte.
    var start: UInt64 = 0
    /// First guest position that is not issued yet.
    var cursor: UInt64 = 0
    /// One past the last guest position.
    var end: UInt64 = 0
    /// The caller's memory when it is one range; else nil and the list says.
    var base: UnsafeMutableRawPointer?
    /// The caller's list, which stays until its slot is handed back.
    var iovecs: UnsafeMutablePointer<iovec>?
    var iovecCount: Int32 = 0
    var operation: BlockRequest.Operation = .read
    /// writeZeroes: by giving up the storage, too.
    var mayUnmap = false
    /// The list has exactly the request's bytes, so the kernel may have it as it is.
    var isExact = false
    /// Pieces not back yet.
    var transfers: Int32 = 0
    /// The first errno; 0 while all is well.
    var error: Int32 = 0
    /// Which epoch of the image's writer it began in.
    var parity: UInt8 = 0
    /// A change of the mapping must be on the disk before it is answered.
    var needsSync = false
    /// What it waits for while it flushes the mapping.
    var flushTicket: UInt64 = 0
    /// Link in the one list the request is in: a table's waiters, those that wait for resources, the finished.
    var next = RequestIndex.none
    /// How often a table was fetched and gone again before this request could use it.
    var tableTries: UInt32 = 0
    var state: State = .free
    var hasDamage = false
    var damage = MapDamage(reason: .tableUnreadable, guest: GuestOffset(0), length: 0, table: HostOffset(0))

    init() {}
}

/// One transfer on its way, or one wait for a cluster that is being decoded, on behalf of a request.
struct Transfer: Linked {
    typealias Index = TransferIndex

    enum Kind: UInt8, BitwiseCopyable {
        /// Straight into (or out of) one range of the caller's memory.
        case plain
        /// Straight into several ranges.
        case vector
        /// Through an aligned bounce buffer: the caller's memory or the range does not suit O_DIRECT.
        case bounce
        /// No read of its own: waits for a cluster that is being read and decoded.
        case cluster
        /// One transfer for several requests in a row, the requests linked from the transfer's own.
        case merged
        /// fallocate: zeros or a hole, no memory.
        case allocation
        /// Zeros written out, where fallocate cannot make them.
        case zeros
        /// From the buffer of a write that allocates.
        case buffered
    }

    var request = RequestIndex.none
    /// Link in the free list, in the queue of unsent reads, or among a cluster's waiters.
    var next = TransferIndex.none
    var kind: Kind = .plain
    var file: UInt16 = 0
    /// Bounce buffer, when there is one.
    var bounce = BounceIndex.none
    /// Own list of ranges, when there is one.
    var list = ListIndex.none
    /// The allocating write that it is of, if it is.
    var op = AllocationIndex.none
    /// `.allocation` only: fallocate's mode.
    var mode: Int32 = 0
    /// How often this read was sent again without any progress.
    var retries: UInt32 = 0
    /// Where in the request the next byte goes.
    var at: Int = 0
    /// Bytes still to come.
    var left: Int = 0
    /// Where in the file the next byte is; inside its cluster for `.cluster`.
    var host: UInt64 = 0
    /// Bounce only: bytes already in the buffer, counted from `host` rounded down.
    var got: Int = 0

    init() {}
}

/// What the data path needs of a `HostFile`, without touching the class.
struct DataFile: TableRecord {
    typealias Index = UInt16

    /// For metadata and compressed streams: any offset, any length.
    var buffered: Int32
    /// For data.
    var data: Int32
    /// The same for the ring: a registered file's index where `flags` says so.
    var ringData: Int32 = -1
    var flags: UInt8 = 0
    /// Low bits that must be clear in addresses and in offsets and lengths of reads by `data`; 0 when buffered.
    var memoryMask: UInt
    var offsetMask: UInt64
}

/// What a completion belongs to, in the engine's half of the `user_data` space (bit 63 set).
enum CompletionTag {
    static let engine: UInt64 = 1 << 63
    static let transfer: UInt64 = engine
    static let table: UInt64 = engine | 1 << 60
    static let cluster: UInt64 = engine | 2 << 60
    static let sync: UInt64 = engine | 3 << 60
    static let wakeup: UInt64 = engine | 4 << 60
    static let kinds: UInt64 = engine | 7 << 60
    /// Several engines share a ring: bits 32 to 47 say whose.
    static let numberShift: UInt64 = 32

    @inline(__always) static func index(_ userData: UInt64) -> Int32 {
        Int32(truncatingIfNeeded: userData)
    }
}
