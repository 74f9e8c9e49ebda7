// A writer that does its own I/O, for one caller that has the image to itself: a change of the disk's size, a repair of the
// snapshot table. It takes rows of clusters for tables, gives tables up whole, and changes ranges of the disk.

import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The writer of one image and the storage that it writes, on one thread.
struct OfflineWriter<Storage: ResizableStorage, DataFile: ImageStorage> {
    let plan: QCOW2Writer
    let storage: Storage
    /// The external data file.
    let data: DataFile?

    private var map: QCOW2Map { plan.map }

    // MARK: to the disk

    /// Brings everything to the disk. Gives what no mapping names any more.
    func writeBack() throws(ImageError) -> FreedClusters { try plan.writeBack(to: storage, data: data) }

    /// Makes those clusters free. Nothing else is in flight, so they can be at once.
    func release(_ freed: FreedClusters, discards: Bool) throws(ImageError) {
        try plan.release(freed, storage: storage, discards: discards)
    }

    // MARK: tables

    /// Takes `count` clusters in a row for a table, and makes the file long enough.
    func allocateRow(_ count: UInt64) throws(ImageError) -> HostOffset {
        var search = RowSearch()
        while true {
            let found: Result<UInt64, RefcountObstacle> = plan.state.withLock { state in
                do throws(RefcountObstacle) {
                    return .success(try state.clusters.allocateRow(count, &search))
                } catch { return .failure(error) }
            }
            switch found {
            case .success(let first):
                let end = (first + count) << map.clusterBits
                if plan.canGrow, storage.length < end { try storage.truncate(to: end) }
                plan.state.withLock { $0.clusters.setFileLength(max($0.clusters.file.length, end)) }
                return HostOffset(first << map.clusterBits)
            case .failure(let obstacle): try remove(obstacle)
            }
        }
    }

    private func remove(_ obstacle: RefcountObstacle) throws(ImageError) {
        switch obstacle {
        case .block(let b): try plan.satisfy(.block(b), storage)
        case .full: throw ImageError(.system, "there is no room for a larger table", number: ENOSPC)
        case .corrupt(let cluster):
            throw .malformed(
                "a free cluster holds metadata: the image is corrupt", at: HostOffset(cluster << map.clusterBits),
                advice: "repair it with qblk check -r all")
        }
    }

    /// Gives the L2 tables up from L1 entry `first` on. Their entries must have been given up before.
    func dropTables(from first: Int) {
        plan.state.withLock { state in
            for index in first..<max(first, map.l1.count) where map.l1[index] != 0 {
                let word = MappingWord(map.l1[index])
                if !word.isDamaged {
                    state.changes.drop(DroppedReference(cluster: word.offset >> map.clusterBits, isTable: true))
                }
                state.changes.changeL1(index, 0, map)
            }
        }
    }

    /// Makes the clusters of a table free that nothing names any more, on the disk neither.
    func freeTable(_ start: HostOffset, bytes: UInt64) throws(ImageError) {
        guard bytes > 0 else { return }
        let clusters = start.bytes >> map.clusterBits...(start.bytes + bytes - 1) >> map.clusterBits
        let list = clusters.map { DroppedReference(cluster: $0, isTable: true) }
        try release(FreedClusters(list: list), discards: true)
    }

    /// Brings everything to the disk, and what is free by then once more.
    func flushAndFree(discards: Bool = false) throws(ImageError) {
        let freed = try writeBack()
        try release(freed, discards: discards)
        let more = try writeBack()
        // A refcount table that moved is the last thing to become free.
        guard !more.isEmpty else { return }
        try release(more, discards: discards)
        _ = try writeBack()
    }

    /// The file ends with its last cluster in use.
    func cutFile() throws(ImageError) {
        while true {
            let obstacle: RefcountObstacle? = plan.state.withLock { state in
                do throws(RefcountObstacle) {
                    try state.clusters.lowerEnd()
                    return nil
                } catch { return error }
            }
            guard let obstacle else { break }
            try remove(obstacle)
        }
        try plan.trim(storage, startLength: 0)
    }

    // MARK: ranges

    /// Changes entries of whole clusters from `start` to `end`, as `mode` says.
    func zeroRange(_ start: UInt64, _ end: UInt64, _ mode: ZeroMode) throws(ImageError) {
        var at = start
        while at < end {
            switch plan.zero(GuestOffset(at), length: end - at, mode) {
            case .done(let count): at += max(count, 1)
            case .wants: try serve()
            case .needs(let table): try supply(table)
            case .failed(let number):
                throw ImageError(
                    .system, "cannot change the mapping", at: nil, advice: "look at it with qblk check",
                    number: number)
            case .write, .busy: throw .unsupported("the image has no entries for zeros")
            }
        }
    }

    /// Gives every cluster from `start` to `end` a place. `give` makes that place, of the file of the data, zeros; it hears
    /// whether it is the image file's and was never written.
    func allocateRange(
        _ start: UInt64, _ end: UInt64,
        give: (HostOffset, UInt64, _ isFresh: Bool) throws(ImageError) -> Void
    ) throws(ImageError) {
        var at = start
        while at < end {
            let fresh = map.rules.external ? .max : plan.state.withLock { $0.clusters.untouched }
            switch plan.begin(GuestOffset(at), length: end - at) {
            case .granted(let write):
                do throws(ImageError) {
                    try give(write.host, write.length, write.host.bytes >> map.clusterBits >= fresh)
                } catch {
                    plan.finish(write, isWritten: false)
                    throw error
                }
                plan.finish(write, isWritten: true)
                at += write.length
            case .inPlace: at += map.clusterSize
            case .wants: try serve()
            case .needs(let table): try supply(table)
            case .failed(let number): throw ImageError(.system, "cannot allocate clusters", number: number)
            case .busy: throw ImageError(.system, "cannot allocate clusters: the image is in use")
            }
        }
    }

    /// Does what the writer asks for, as the helper thread does where requests are in flight.
    private func serve() throws(ImageError) {
        for next in plan.takePrerequisites() {
            if next == .writeBack { try flushAndFree() } else { try plan.satisfy(next, storage) }
        }
    }

    private func supply(_ table: TableRead) throws(ImageError) {
        let bytes = try storage.read(at: table.host, count: Int(table.length))
        unsafe bytes.withUnsafeBytes { bytes in unsafe map.supply(table, bytes) }
    }
}
