// What the engine remembers about a request in flight, as plain bytes. Requests lie in a table that is allocated once and
// refer to each other by index, so nothing here is counted, boxed or moved.
import DiskTypes
import Glibc

/// One request. The index of a door's is the door's slot number.
@safe struct Request: Linked {
    typealias Index = RequestIndex

    enum State: UInt8, BitwiseCopyable {
        case free
        /// In the queue of those that advance next, behind those that wait for resources.
        case ready
        /// In the same queue: what it waited for (a table, another write) is there.
        case resumed
        /// Its extents are being looked up, now or after a wait.
        case advancing
        /// Waits for a mapping table that is being read.
        case needsTable
        /// Waits for transfers or buffers, all of which are free once nothing is in flight.
        case waitingForResources
        /// A write that allocates: waits until another of this engine ends, for so many at a time have room.
        case waitingForPlace
        /// Waits for what another worker or the writer's helper does.
        case waitingForWakeup
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
    /// Link in the one list the request is in: a table's waiters, those that are ready or wait for resources, the finished.
    var next = RequestIndex.none
    /// How often a table was fetched and gone again before this request could use it.
    var tableTries: UInt32 = 0
    var state: State = .free
    /// The allocating write whose old bytes it reads; `none` for requests of the door.
    var owner = AllocationIndex.none
    var hasDamage = false
    var damage = MapDamage(reason: .tableUnreadable, guest: GuestOffset(0), length: 0, table: HostOffset(0))

    init() {}

    /// The caller's memory.
    @inline(__always) var memory: RequestMemory {
        unsafe RequestMemory(base: base, iovecs: iovecs, count: Int(iovecCount))
    }
}
