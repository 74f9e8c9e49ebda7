// The one place that changes an image's mapping. It plans and does no I/O: a write asks where its bytes go, puts them
// there, and hands the answer back; only then does the mapping change, in memory. How changes reach the disk is
// WriteBack's, in the order of WriteOrdering.md.

public import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Changes the active mapping of one image, for any number of threads. Only what allocates comes here: bytes that have a
/// cluster of their own are overwritten without asking (`QCOW2Map.overwritableOffset`).
public final class QCOW2Writer: Sendable {
    let map: QCOW2Map
    let header: Header
    let bitmaps: [Bitmap]
    let bitmapDirectory: HeaderExtensions.BitmapsPointer?
    /// The image has a backing file: what is not allocated here is not zeros.
    let hasBacking: Bool
    let isRawExternal: Bool
    let canGrow: Bool
    let state: Mutex<State>

    /// Everything that changes. Only the lock's holder may touch it.
    struct State {
        /// Which host clusters are free.
        var clusters: ClusterAllocator
        /// What the disk does not have yet.
        var changes: PendingChanges
        /// What may still be done.
        var status: WriterStatus
        /// What writes wait for.
        var prerequisites = Prerequisites()

        var isDirty: Bool { changes.isDirty || clusters.isDirty }
    }

    /// Opens an image for writing: reads its refcount table and notes where its tables are. `map` is that of the active
    /// state. Throws when the image cannot be written without harm, and the system's error when it cannot be read.
    public init(
        _ image: QCOW2Image, map: QCOW2Map, storage: some ResizableStorage, hasBacking: Bool
    ) throws(ImageError) {
        let table = try Refcounts.readTable(image.header, storage)
        let metadata = try MetadataClusters.list(image, map, table, storage)
        guard let dirtySlices = DirtySlices(slots: map.cache.slots, wordsPerSlice: map.cache.wordsPerSlice) else {
            throw ImageError(.system, "there is not enough memory for the L2 cache", number: ENOMEM)
        }
        map.guarded.withLock { $0 = metadata }
        header = image.header
        self.map = map
        self.hasBacking = hasBacking
        canGrow = storage.canGrow
        isRawExternal = image.header.autoclear.contains(.rawExternalData)
        bitmaps = (try? image.bitmaps.get()) ?? []
        bitmapDirectory = image.extensions.bitmaps
        let mustPrepare =
            !image.header.autoclear.subtracting([.bitmaps, .rawExternalData]).isEmpty
            || bitmaps.contains { $0.isAuto && !$0.isInUse }
        let refcounts = Refcounts(
            image.header, table: table, metadata: metadata.tables, fileLength: storage.length,
            canGrow: storage.canGrow)
        state = Mutex(
            State(
                clusters: ClusterAllocator(
                    refcounts: refcounts, clusterSize: image.header.clusterSize, fileLength: storage.length,
                    canGrow: storage.canGrow),
                changes: PendingChanges(dirtySlices: dirtySlices), status: WriterStatus(isPrepared: !mustPrepare)))
    }

    // MARK: workers

    /// A worker is going to write, with a number of its own: `begin(at:)` finds it clusters that lie together.
    public func enter(_ worker: Int) { state.withLock { $0.clusters.enter(worker) } }
    /// The worker of that number writes no more.
    public func leave(_ worker: Int) { state.withLock { $0.clusters.leave(worker) } }

    // MARK: what the helper thread does

    /// Whether the header and the bitmaps are marked for writing. Until then `begin` asks for `Prerequisite.preparation`.
    public var isPrepared: Bool { state.withLock { $0.status.isPrepared } }

    /// What the helper thread is to do now, oldest first. It is taken off the list.
    public func takePrerequisites() -> [Prerequisite] { state.withLock { $0.prerequisites.takeAll() } }

    /// A prerequisite could not be met: the next write that needs it gets errno `error`.
    public func fail(_ prerequisite: Prerequisite, _ error: Int32) {
        state.withLock { $0.prerequisites.fail(prerequisite, error) }
    }

    /// Whether the disk lacks a change, or may lack one because its write-back has not ended.
    public var isDirty: Bool { state.withLock { $0.isDirty || $0.changes.isWritingBack } }
    /// Whether there are so many changes that a write-back should begin now.
    public var isFull: Bool { state.withLock { $0.changes.isFull(map) } }

    // MARK: the end of a write

    /// Ends a write that `begin` granted. `isWritten`: all bytes that it asked for are in the file; else nothing changes.
    /// True: there are so many changes that a write-back should begin now.
    @discardableResult public func finish(_ write: AllocatingWrite, isWritten: Bool) -> Bool {
        state.withLock { state in
            let first = write.guest.bytes >> map.clusterBits
            let slice = Int(truncatingIfNeeded: write.guest.bytes >> map.sliceCoverageBits)
            if isWritten { for i in 0..<write.clusters { state.changes.link(write, first + i, slice, map) } }
            state.changes.end(first)
            if !isWritten, write.isNew {
                let host = write.host.bytes >> map.clusterBits
                // Their block was in memory a moment ago, dirty, and is so still.
                for i in 0..<write.clusters { _ = try? state.clusters.release(host + i) }
            }
            map.cache.unpin(slice)
            // Once it is being written out, the check need not be made again.
            return state.changes.isFull(map) && !state.changes.isWritingBack
        }
    }

    // MARK: failures

    /// An entry names a cluster of the image's own tables: nothing is written any more, and the header says so.
    public func foundCorruption() {
        state.withLock { state in
            if state.status.closeAsCorrupt() { state.prerequisites.add(.corruption) }
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
            state.changes.failJournal()
        }
    }

    /// The image's file is shorter than it was. How much of it is lost cannot be known: a write in place may have made it
    /// longer again, with zeros in between. So no byte of it is believed any more, and none is written.
    public func foundCut() {
        state.withLock { state in
            state.status.cut()
            state.changes.failJournal()
            map.loseFile()
        }
    }
    /// See `foundCut`.
    public var isCut: Bool { state.withLock { $0.status.isCut } }

    /// Clusters behind the file's end counted as used when it was opened: it is truncated, or a crash has left leaks.
    public var hasMissingClusters: Bool { map.guarded.withLock { !$0.missing.isEmpty } }

    // MARK: journal

    /// From here on changes stand in `journal` until the disk has them, and what is in it already is true again.
    /// `identity` tells images apart. To be called by the thread that calls `writeBack`, while no request is in flight.
    ///
    /// When it throws, the changes are still in the journal, and it can be tried again.
    public func use(
        _ journal: MappingJournal, identity: UInt64, storage: some ResizableStorage, data: (some ImageStorage)?
    ) throws(ImageError) -> JournalReplay {
        try JournalReplayer(writer: self, storage: storage, data: data).use(journal, identity)
    }

    /// Closed in order: the next process has nothing to replay.
    public func endJournal() { state.withLock { $0.changes.endJournal() } }
    /// The process before this one was killed: clusters that it had taken may count as used without a reference.
    public var mayLeak: Bool { state.withLock { $0.status.mayLeak } }
}
