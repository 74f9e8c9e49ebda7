// What a change of the disk's size needs of the writer beyond writes: a place for a larger L1 table, L2 tables given
// up whole, zeros where the disk grows. For one caller, who has the image to itself.

import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

extension QCOW2Writer {
    /// Takes `count` clusters in a row for a table, and makes the file long enough.
    func allocateRow(_ count: UInt64, _ storage: some ResizableStorage) throws(ImageError) -> HostOffset {
        var search = RowSearch()
        while true {
            let found: Result<UInt64, ClusterAllocator.Lack> = state.withLock { state in
                do throws(ClusterAllocator.Lack) {
                    let first = try state.refcounts.allocateRow(count, &search)
                    if state.untouched != .max { state.untouched = max(state.untouched, first + count) }
                    return .success(first)
                } catch { return .failure(error) }
            }
            switch found {
            case .success(let first):
                let end = (first + count) << map.clusterBits
                if canGrow, storage.length < end { try storage.truncate(to: end) }
                state.withLock { $0.fileLength = max($0.fileLength, end) }
                return HostOffset(first << map.clusterBits)
            case .failure(let lack): try meet(lack, storage)
            }
        }
    }

    private func meet(_ lack: ClusterAllocator.Lack, _ storage: some ResizableStorage) throws(ImageError) {
        switch lack {
        case .block(let b): try satisfy(.block(b), storage)
        case .full: throw ImageError(.system, "there is no room for a larger table", number: ENOSPC)
        case .corrupt(let cluster):
            throw .malformed(
                "a free cluster holds metadata: the image is corrupt", at: HostOffset(cluster << map.clusterBits),
                advice: "repair it with qblk check -r all")
        }
    }

    /// Gives the L2 tables up from L1 entry `first` on. Their entries must have been given up before.
    func dropTables(from first: Int) {
        state.withLock { state in
            for index in first..<max(first, map.l1.count) where map.l1[index] != 0 {
                let word = MappingWord(map.l1[index])
                if !word.isDamaged {
                    state.unlinked.append(DroppedReference(cluster: word.offset >> map.clusterBits, isTable: true))
                }
                map.l1.set(index, 0)
                state.dirtyL1.insert(index)
            }
        }
    }

    /// Makes the clusters of a table free that nothing names any more, on the disk neither.
    func freeTable(_ start: HostOffset, bytes: UInt64, _ storage: some ResizableStorage) throws(ImageError) {
        guard bytes > 0 else { return }
        let clusters = start.bytes >> map.clusterBits...(start.bytes + bytes - 1) >> map.clusterBits
        let list = clusters.map { DroppedReference(cluster: $0, isTable: true) }
        try release(FreedClusters(list: list), storage: storage, discards: true)
    }

    /// Brings everything to the disk, and what is free by then once more.
    func settle(
        _ storage: some ResizableStorage, _ data: (some ImageStorage)?, discards: Bool = false
    ) throws(ImageError) {
        let freed = try writeBack(to: storage, data: data)
        try release(freed, storage: storage, discards: discards)
        let more = try writeBack(to: storage, data: data)
        // A refcount table that moved is the last thing to become free.
        guard !more.isEmpty else { return }
        try release(more, storage: storage, discards: discards)
        _ = try writeBack(to: storage, data: data)
    }

    /// The file ends with its last cluster in use.
    func cutFile(_ storage: some ResizableStorage) throws(ImageError) {
        while true {
            let lack: ClusterAllocator.Lack? = state.withLock { state in
                do throws(ClusterAllocator.Lack) {
                    try state.refcounts.lowerEnd()
                    return nil
                } catch { return error }
            }
            guard let lack else { break }
            try meet(lack, storage)
        }
        try trim(storage, startLength: 0)
    }

    // MARK: ranges

    /// Changes entries of whole clusters from `start` to `end`, as `mode` says.
    func zeroRange(
        _ start: UInt64, _ end: UInt64, _ mode: ZeroMode, _ storage: some ResizableStorage,
        _ data: (some ImageStorage)?
    ) throws(ImageError) {
        var at = start
        while at < end {
            switch zero(GuestOffset(at), length: end - at, mode) {
            case .done(let count): at += max(count, 1)
            case .wants: try serve(storage, data)
            case .needs(let table): try supply(table, storage)
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
        _ start: UInt64, _ end: UInt64, _ storage: some ResizableStorage, _ data: (some ImageStorage)?,
        give: (HostOffset, UInt64, _ isFresh: Bool) throws(ImageError) -> Void
    ) throws(ImageError) {
        var at = start
        while at < end {
            let fresh = map.rules.external ? .max : state.withLock { $0.untouched }
            switch begin(GuestOffset(at), length: end - at) {
            case .ticket(let ticket):
                do throws(ImageError) {
                    try give(ticket.host, ticket.length, ticket.host.bytes >> map.clusterBits >= fresh)
                } catch {
                    finish(ticket, isWritten: false)
                    throw error
                }
                finish(ticket, isWritten: true)
                at += ticket.length
            case .inPlace: at += map.clusterSize
            case .wants: try serve(storage, data)
            case .needs(let table): try supply(table, storage)
            case .failed(let number): throw ImageError(.system, "cannot allocate clusters", number: number)
            case .busy: throw ImageError(.system, "cannot allocate clusters: the image is in use")
            }
        }
    }

    private func serve(_ storage: some ResizableStorage, _ data: (some ImageStorage)?) throws(ImageError) {
        for want in takePrerequisites() {
            if want == .writeBack { try settle(storage, data) } else { try satisfy(want, storage) }
        }
    }

    private func supply(_ table: TableRead, _ storage: some ResizableStorage) throws(ImageError) {
        let bytes = try storage.read(at: table.host, count: Int(table.length))
        unsafe bytes.withUnsafeBytes { bytes in unsafe map.supply(table, bytes) }
    }
}
