// The one place that changes an image's mapping. It plans and does no I/O: a write asks for a ticket, puts its bytes
// where the ticket says, and hands the ticket back; only then does the mapping change, in memory. How changes reach
// the disk is WriteBack's. The order is that of WriteOrdering.md.

public import DiskTypes
import Synchronization

/// Changes the active mapping of one image, for any number of threads. Only what allocates comes here: bytes that have a
/// cluster of their own are overwritten without asking (`QCOW2Map.overwritableOffset`).
public final class QCOW2Writer: Sendable {
    let map: QCOW2Map
    let header: Header
    let bitmaps: [Bitmap]
    let bitmapDirectory: HeaderExtensions.BitmapsPointer?
    /// Something lies below: what is not allocated here is not zeros.
    let hasBacking: Bool
    let isRawExternal: Bool
    let canGrow: Bool
    let state: Mutex<State>

    /// What only the lock's holder may touch.
    struct State {
        var refcounts: ClusterAllocator
        /// Guest clusters of writes in flight.
        var tickets = InFlightClusters()
        /// Words of L2 slices that the disk does not have yet.
        var dirtySlices: DirtySlices
        var dirtyL1: Set<Int> = []
        /// References that the mapping in memory gave up, and the one on the disk still has.
        var unlinked: [DroppedReference] = []
        /// Clusters from here on were never written: they read as zeros.
        var untouched: UInt64
        var reservations: Reservations
        /// The file is this long.
        var fileLength: UInt64
        /// How much longer than needed the file is made, in bytes; less once the system has refused a step.
        var growth: UInt64 = 64 << 20
        /// The file must be so long for the writes that wait.
        var neededLength: UInt64 = 0
        var status: WriterStatus
        var wanted = Wanted()
        var failures: [Prerequisite: Int32] = [:]
        /// Where changes stand that the disk lacks, should this process be killed.
        var journal: MappingJournal?
        /// Changes come out of the journal: they are in it.
        var isAdopting = false
        /// The mapping is no longer what it was when the image was opened.
        var hasChanged = false
        /// Write-backs that took changes away and have not ended.
        var isWritingBack = false

        var isDirty: Bool { !dirtySlices.isEmpty || !dirtyL1.isEmpty || !unlinked.isEmpty || refcounts.isDirty }
    }

    /// What the helper thread must do before a write can go on.
    public enum Prerequisite: Hashable, Sendable {
        /// Make, or copy, the L2 table of an L1 entry.
        case table(Int)
        /// Load a refcount block.
        case block(Int)
        /// Make the file longer.
        case room
        /// Mark the header and bitmaps before the first write.
        case preparation
        /// Mark the image corrupt.
        case corruption
        /// Write changes back, so that L2 slices may leave memory.
        case writeBack
    }

    struct Wanted {
        var list: [Prerequisite] = []
        mutating func add(_ want: Prerequisite) { if !list.contains(want) { list.append(want) } }
    }

    /// `metadata`: clusters that hold tables, which no data may touch (see `MetadataClusters`).
    init(
        _ image: QCOW2Image, map: QCOW2Map, refcountTable: [UInt64], metadata: Set<UInt64>, fileLength: UInt64,
        canGrow: Bool, hasBacking: Bool, dirtySlices: DirtySlices
    ) {
        header = image.header
        self.map = map
        self.hasBacking = hasBacking
        self.canGrow = canGrow
        isRawExternal = image.header.autoclear.contains(.rawExternalData)
        bitmaps = (try? image.bitmaps.get()) ?? []
        bitmapDirectory = image.extensions.bitmaps
        let refcounts = ClusterAllocator(
            image.header, table: refcountTable, metadata: metadata, fileLength: fileLength, canGrow: canGrow)
        let mustPrepare =
            !image.header.autoclear.subtracting([.bitmaps, .rawExternalData]).isEmpty
            || bitmaps.contains { $0.isAuto && !$0.isInUse }
        state = Mutex(
            State(
                refcounts: refcounts, dirtySlices: dirtySlices, untouched: canGrow ? refcounts.end : .max,
                reservations: Reservations(clusterSize: image.header.clusterSize), fileLength: fileLength,
                status: WriterStatus(isPrepared: !mustPrepare)))
    }

    /// Whether the header and the bitmaps are marked for writing. Until then `begin` asks for `Prerequisite.preparation`.
    public var isPrepared: Bool { state.withLock { $0.status.isPrepared } }

    /// What the helper thread is to do now, oldest first; taken.
    public func takePrerequisites() -> [Prerequisite] {
        state.withLock { state in
            let list = state.wanted.list
            state.wanted = Wanted()
            return list
        }
    }

    /// A want could not be met: the next write that needs it gets the error.
    public func fail(_ want: Prerequisite, _ error: Int32) { state.withLock { $0.failures[want] = error } }

    /// An entry names a cluster of the image's own tables: nothing is written any more, and the header says so.
    public func foundCorruption() {
        state.withLock { state in
            if state.status.closeAsCorrupt() { state.wanted.add(.corruption) }
        }
    }

    /// A sync has failed: what was written before may or may not be on the disk, whatever later ones say.
    public var hasFailedSync: Bool { syncFailure != nil }
    /// The errno of the first sync that failed; nil while none has.
    public var syncFailure: Int32? { state.withLock { $0.status.syncFailure } }

    /// A sync has failed with errno `error`, here or on a worker's ring: no mapping changes any more, and nothing can be
    /// promised. Every later change gets that errno.
    public func giveUp(_ error: Int32) {
        state.withLock { state in
            state.status.giveUp(error)
            state.journal?.fail()
        }
    }

    /// The image's file is shorter than it was. How much of it is lost cannot be known: a write in place may have made it
    /// longer again, with zeros in between. So no byte of it is believed any more, and none is written.
    public func foundCut() {
        state.withLock { state in
            state.status.cut()
            state.journal?.fail()
            map.loseFile()
        }
    }
    /// See `foundCut`.
    public var isCut: Bool { state.withLock { $0.status.isCut } }

    /// Clusters behind the file's end counted as used when it was opened: it is truncated, or a crash has left leaks.
    public var hasMissingClusters: Bool { map.guarded.withLock { !$0.missing.isEmpty } }

    /// Something changed that the disk does not have, or does not have for sure.
    public var isDirty: Bool { state.withLock { $0.isDirty || $0.isWritingBack } }
    /// There is so much of it that it should go out now.
    public var isFull: Bool { state.withLock { isFull($0) } }
    func isFull(_ state: borrowing State) -> Bool {
        !map.cache.holdsAll && map.cache.pinLimit <= 2 * state.dirtySlices.count
            || state.journal?.isHalfFull ?? false
    }
}

/// The answer to a write that allocates.
public enum WriteGrant: Sendable {
    /// Write where the ticket says, then `finish`.
    case ticket(AllocatingWrite)
    /// It can be overwritten in place after all: another write was faster.
    case inPlace
    /// Another write must end first: ask again when one has.
    case busy
    /// The helper thread must do something first.
    case wants
    /// Fetch this, `supply` it, ask again.
    case needs(TableRead)
    /// An errno.
    case failed(Int32)
}

/// Leave to write some whole clusters, or subclusters of one.
public struct AllocatingWrite: BitwiseCopyable, Sendable {
    /// What the rest of the units must hold, of which the write brings only a part.
    public enum CowFill: UInt8, BitwiseCopyable, Sendable {
        /// It holds it already, or there is none.
        case none
        case zero
        /// What the guest sees there now.
        case copy
    }

    /// The units: clusters or subclusters.
    public let guest: GuestOffset
    public let length: UInt64
    /// Where `guest` goes, in the file of the data.
    public let host: HostOffset
    public let fill: CowFill
    /// The host clusters were free until now.
    let isNew: Bool
    /// All of the cluster is valid afterwards, whatever was before.
    let isWhole: Bool
    var clusters: UInt64
}
