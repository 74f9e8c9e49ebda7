// The write order. What is in memory reaches the disk in three steps, a sync after each: refcounts and data before
// the mapping that refers to them, and only when the disk has forgotten an old mapping are its clusters free. A crash
// between any two writes leaves an image without errors; WriteOrdering.md says for each gap why.

public import DiskTypes
import Synchronization

/// References that are gone, on the disk too. Free once no request that began before is in flight.
public struct FreedClusters: Sendable {
    var list: [DroppedReference] = []
    /// No clusters.
    public init() {}
    init(list: [DroppedReference]) { self.list = list }
    /// Whether there are none.
    public var isEmpty: Bool { list.isEmpty }
    /// Adds those of a later write-back.
    public mutating func append(_ more: FreedClusters) { list += more.list }
}

/// One reference that a mapping had and has no more.
struct DroppedReference: Sendable {
    let cluster: UInt64
    /// It was to a table of the image itself. What an entry of the guest names may claim to be one, and is never freed.
    var isTable = false
}

/// All changes of one write-back.
private struct Changes {
    let refcounts: RefcountChanges
    let mapping: MappingChanges
}

extension QCOW2Writer {
    /// Brings everything to the disk that was changed before, and everything that was written. To be called by one thread
    /// at a time. `data`: the external data file, where there is one. When it throws, nothing is lost: the changes wait for
    /// the next time.
    public func writeBack(
        to storage: some ResizableStorage, data: (some ImageStorage)?
    ) throws(ImageError) -> FreedClusters {
        try requireWholeFile(storage)
        let changes = takeChanges()
        do throws(ImageError) {
            if let data { try sync(data) }
            try writeRefcounts(changes.refcounts, storage)
            try sync(storage)
            try linkRefcounts(changes.refcounts, storage)
            try writeMapping(changes.mapping, storage)
        } catch {
            putBack(changes)
            throw error
        }
        state.withLock { $0.changes.finish(changes.mapping, map) }
        return FreedClusters(
            list: changes.mapping.dropped
                + changes.refcounts.retired.map { DroppedReference(cluster: $0, isTable: true) })
    }

    // MARK: the steps

    /// Blocks, and a table that moved: nothing on the disk refers to the new ones yet.
    private func writeRefcounts(_ changes: RefcountChanges, _ storage: some ResizableStorage) throws(ImageError) {
        for part in changes.blocks { try storage.write(at: part.host, part.bytes) }
        if let table = changes.movedTable { try storage.write(at: table.host, table.bytes) }
    }

    /// New blocks come into the table, or the moved table into the header.
    private func linkRefcounts(_ changes: RefcountChanges, _ storage: some ResizableStorage) throws(ImageError) {
        guard changes.movedTable != nil || !changes.entries.isEmpty else { return }
        for entry in changes.entries { try storage.write(at: entry.host, entry.bytes) }
        if let table = changes.movedTable {
            try storage.write(at: HostOffset(48), bigEndian(table.host.bytes) + bigEndian(table.clusters))
        }
        try sync(storage)
    }

    private func writeMapping(_ changes: MappingChanges, _ storage: some ResizableStorage) throws(ImageError) {
        guard !changes.slices.isEmpty || !changes.l1.isEmpty else { return }
        for slice in changes.slices {
            let number = slice.dirty.slice
            let place = map.tableRead(number, l2Table: MappingWord(map.l1[l1Index(number)]).offset).host
            for run in slice.runs { try storage.write(at: place + UInt64(run.first * 8), run.bytes) }
        }
        for (index, word) in changes.l1 {
            try storage.write(at: header.l1Offset + UInt64(index * 8), bigEndian(word))
        }
        try sync(storage)
    }

    /// A sync that fails is remembered: the kernel forgets what it could not write, and the next one would succeed.
    func sync(_ storage: some ImageStorage) throws(ImageError) {
        do throws(ImageError) { try storage.sync() } catch {
            state.withLock { state in
                state.status.failSync(error.answer)
                state.changes.failJournal()
            }
            throw error
        }
    }

    func l1Index(_ slice: Int) -> Int { slice >> Int(map.coverageBits - map.sliceCoverageBits) }

    // MARK: taking

    private func takeChanges() -> Changes {
        state.withLock { state in
            Changes(refcounts: state.clusters.takeDirty(), mapping: state.changes.take(map))
        }
    }

    private func putBack(_ changes: Changes) {
        state.withLock { state in
            state.clusters.putBack(changes.refcounts)
            state.changes.putBack(changes.mapping, map)
        }
    }
}
