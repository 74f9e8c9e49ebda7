// Replays the journal of a writer that was killed. What that one had changed is in the journal; the disk has all, some or
// none of it, for a write-back may have been under way. Afterwards the mapping in memory is as it was.

import DiskTypes
import Synchronization

/// How a journal was taken over.
public enum JournalReplay: Equatable, Sendable {
    /// There was nothing to take over.
    case fresh
    /// So many changes are there again.
    case changes(Int)
    /// The same, but a sync had failed before: no flush may succeed any more.
    case afterFailure(Int)
    /// What is in it cannot be this image's changes: they are lost, if there were any.
    case refused(String)
}

/// Replays one journal into one writer, on the thread that calls `writeBack`, while no request is in flight.
struct JournalReplayer<Storage: ResizableStorage, DataFile: ImageStorage> {
    let writer: QCOW2Writer
    let storage: Storage
    /// The external data file.
    let data: DataFile?

    private var map: QCOW2Map { writer.map }

    /// See `QCOW2Writer.use`.
    func use(_ journal: MappingJournal, _ identity: UInt64) throws(ImageError) -> JournalReplay {
        if writer.hasFailedSync { return refuseForGood(journal, identity) }
        // What this writer has in memory is newer than any journal, and belongs to the disk before it changes journals.
        let (hasChanged, isOurs) = writer.state.withLock { ($0.changes.hasChanged, $0.changes.hasJournal) }
        if hasChanged { try writeBackKeeping() }
        switch journal.left(identity) {
        case .nothing: return begin(journal, identity, .fresh)
        case .nonsense: return begin(journal, identity, .refused("it is of another image, or damaged"))
        case .records(let records, let hasFailed):
            if records.isEmpty, !hasFailed { return begin(journal, identity, .fresh, mayLeak: !isOurs) }
            if hasChanged { return begin(journal, identity, .refused("the image has changed since")) }
            return try replay(records, journal, identity, hasFailed: hasFailed)
        }
    }

    /// After a sync that failed no mapping may reach the disk, for the sake of a journal neither; and the next writer must
    /// hear of it from this one, too.
    private func refuseForGood(_ journal: MappingJournal, _ identity: UInt64) -> JournalReplay {
        if case .nothing = journal.left(identity) {
            journal.start(identity)
            journal.fail()
        }
        return .afterFailure(0)
    }

    /// A write-back after which nothing is free yet: that waits for the next one.
    private func writeBackKeeping() throws(ImageError) {
        let freed = try writer.writeBack(to: storage, data: data)
        writer.state.withLock { $0.changes.keep(freed) }
    }

    private func begin(
        _ journal: MappingJournal, _ identity: UInt64, _ outcome: JournalReplay, mayLeak: Bool = false
    ) -> JournalReplay {
        journal.start(identity)
        writer.state.withLock { state in
            state.changes.use(journal)
            if mayLeak || outcome != .fresh { state.status.followKilledProcess() }
        }
        return outcome
    }

    private func replay(
        _ records: [MappingJournal.Record], _ journal: MappingJournal, _ identity: UInt64, hasFailed: Bool
    ) throws(ImageError) -> JournalReplay {
        writer.state.withLock { state in
            state.changes.beginReplay()
            state.status.followKilledProcess()
        }
        defer { writer.state.withLock { $0.changes.endReplay() } }
        do throws(ImageError) {
            let last = try lastWords(records)
            for (_, entry) in last where entry.isOwn { try adopt(entry.host) }
            for (cluster, entry) in last.sorted(by: { $0.key < $1.key }) {
                try bringTable(of: cluster)
                try apply(entry, to: cluster)
            }
        } catch {
            guard error.kind == .malformed else { throw error }
            return begin(journal, identity, .refused(error.what))
        }
        writer.state.withLock { $0.changes.use(journal) }
        return hasFailed ? .afterFailure(records.count) : .changes(records.count)
    }

    // MARK: steps

    /// What an entry is to be.
    private struct Entry {
        let word: UInt64
        let bits: UInt64
        let host: UInt64
        /// It names a cluster that no other entry names.
        let isOwn: Bool
        /// It names a cluster that a snapshot has, too: the one that it named before, with other subclusters.
        let isShared: Bool
    }

    /// The last word on each guest cluster, judged as if it came from a hostile image.
    private func lastWords(_ records: [MappingJournal.Record]) throws(ImageError) -> [UInt64: Entry] {
        var last: [UInt64: Entry] = [:]
        let clusters = (map.size + map.clusterSize - 1) >> map.clusterBits
        let rules = map.ends.current(map.rules, guarded: map.guarded.withLock { $0 })
        // Far more than a writer changes between two write-backs, and little enough to go through.
        let most: UInt64 = 1 << 26
        var total: UInt64 = 0
        for record in records {
            total += min(record.count, most)
            guard total <= most else {
                throw .malformed("there are more changes than a writer can have made")
            }
            guard record.cluster < clusters, record.count > 0, record.count <= clusters - record.cluster else {
                throw .malformed("a change lies outside the disk")
            }
            for i in 0..<record.count {
                let guest = (record.cluster + i) << map.clusterBits
                let (word, bits) = (record.word(i, map.clusterSize), record.bits)
                let judged =
                    rules.subclusters
                    ? rules.validateExtended(word, bits, guest: guest, table: 0)
                    : (rules.validateL2(word, guest: guest, table: 0), 0)
                let new = MappingWord(word)
                guard judged == (word, rules.subclusters ? bits : 0), !new.isCompressed, !new.isDamaged,
                    rules.external || new.offset != 0 || word & MappingWord.copied == 0
                else { throw .malformed("a change is no entry of this image") }
                last[record.cluster + i] = Entry(
                    word: word, bits: bits, host: new.offset >> map.clusterBits,
                    isOwn: !rules.external && word & MappingWord.copied != 0,
                    isShared: new.offset != 0 && word & MappingWord.copied == 0)
            }
        }
        var hosts: Set<UInt64> = []
        for entry in last.values where entry.isOwn {
            guard hosts.insert(entry.host).inserted else { throw .malformed("two changes share a cluster") }
        }
        return last
    }

    /// Counts a cluster that an entry is to name.
    private func adopt(_ cluster: UInt64) throws(ImageError) {
        while true {
            let obstacle: RefcountObstacle? = writer.state.withLock { state in
                do throws(RefcountObstacle) {
                    try state.clusters.adopt(cluster)
                    return nil
                } catch { return error }
            }
            switch obstacle {
            case nil: return
            case .block(let b): try writer.satisfy(.block(b), storage)
            case .full, .corrupt: throw .malformed("a change names a cluster that cannot be its own")
            }
        }
    }

    /// Pins the slice of a guest cluster, whose table is this image's alone.
    private func bringTable(of cluster: UInt64) throws(ImageError) {
        let guest = cluster << map.clusterBits
        let slice = Int(truncatingIfNeeded: guest >> map.sliceCoverageBits)
        let table = Int(truncatingIfNeeded: guest >> map.coverageBits)
        while true {
            let l1 = MappingWord(map.l1[table])
            if l1.isDamaged { throw .malformed("a change is of a table that is damaged") }
            if l1.raw & MappingWord.copied == 0 { try writer.makeTable(table, storage) }
            let isPinned = map.cache.pin(slice)
            if isPinned == true { return }
            if isPinned == nil {
                // Slices that are written may leave memory.
                try writeBackKeeping()
                continue
            }
            let read = map.tableRead(slice, l2Table: MappingWord(map.l1[table]).offset)
            let bytes = try storage.readAll(at: read.host, count: Int(read.length), what: "an L2 table")
            unsafe bytes.withUnsafeBytes { unsafe map.supply(read, $0) }
        }
    }

    private func apply(_ entry: Entry, to cluster: UInt64) throws(ImageError) {
        let guest = GuestOffset(cluster << map.clusterBits)
        let slice = Int(truncatingIfNeeded: guest.bytes >> map.sliceCoverageBits)
        let isSound = writer.state.withLock { state in
            defer { map.cache.unpin(slice) }
            let index = map.entryIndex(guest)
            let old = MappingWord(map.cache.word(slice, index))
            let bits = map.rules.subclusters ? map.cache.word(slice, index + 1) : 0
            if old.raw == entry.word, bits == entry.bits { return true }
            let isElsewhere = old.isCompressed || old.offset != MappingWord(entry.word).offset
            if entry.isShared, isElsewhere { return false }
            if isElsewhere { state.changes.unlink(old, map) }
            if map.rules.subclusters {
                state.changes.changePair(slice, index, entry.word, entry.bits, map)
            } else {
                state.changes.change(slice, index, entry.word, map)
            }
            return true
        }
        guard isSound else { throw .malformed("a change names another's cluster") }
    }
}
