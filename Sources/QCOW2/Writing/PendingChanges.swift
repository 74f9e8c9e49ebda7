// The changes of an image's mapping that the disk does not have yet, and the writes that will make more. An entry changes
// in memory here and nowhere else: recorded in the journal first, then visible to readers, then marked for the write-back.

import DiskTypes

/// What one writer has changed, in memory. Used under the writer's lock. The entries themselves are the map's, which each
/// method gets.
struct PendingChanges {
    /// Guest clusters of writes in flight.
    private var inFlight = InFlightClusters()
    /// Words of L2 slices that the disk lacks. Their slices are pinned.
    private let dirtySlices: DirtySlices
    /// L1 entries that the disk lacks.
    private var dirtyL1: Set<Int> = []
    /// References that the mapping in memory has dropped, and the one on the disk has still.
    private var dropped: [DroppedReference] = []
    /// Keeps the changes that the disk lacks, should this process be killed.
    private var journal: MappingJournal?
    /// Changes come out of the journal: they are in it already.
    private(set) var isReplaying = false
    /// The mapping is no longer what it was when the image was opened.
    private(set) var hasChanged = false
    /// A write-back has taken changes and has not ended.
    private(set) var isWritingBack = false

    init(dirtySlices: DirtySlices) { self.dirtySlices = dirtySlices }

    /// The disk lacks changes, besides those that a write-back has taken.
    var isDirty: Bool { !dirtySlices.isEmpty || !dirtyL1.isEmpty || !dropped.isEmpty }

    /// There are so many changes that a write-back should begin now.
    func isFull(_ map: QCOW2Map) -> Bool {
        !map.cache.holdsAll && map.cache.pinLimit <= 2 * dirtySlices.count || journal?.isHalfFull ?? false
    }

    /// The journal has room for `count` changes besides those of the writes in flight.
    func hasRoom(_ count: UInt64) -> Bool { journal.map { $0.free >= inFlight.count + count } ?? true }

    // MARK: writes in flight

    /// Whether a write in flight is about to change the guest cluster.
    func isInFlight(_ cluster: UInt64) -> Bool { inFlight.contains(cluster) }
    /// The nearest guest cluster from `cluster` on that a write in flight is about to change.
    func nextInFlight(from cluster: UInt64) -> UInt64 { inFlight.next(from: cluster) }

    /// A write of guest clusters from `first` on begins.
    mutating func begin(_ first: UInt64, count: UInt64) {
        inFlight.insert(first, count: count)
        hasChanged = true
    }
    /// The write that began at guest cluster `first` has ended.
    mutating func end(_ first: UInt64) { inFlight.remove(first) }

    /// Entries are going to change without a write.
    mutating func beginChange() { hasChanged = true }

    // MARK: entries

    /// Guest cluster `cluster` of a write gets its new entry, whose slice is pinned.
    mutating func link(_ write: AllocatingWrite, _ cluster: UInt64, _ slice: Int, _ map: QCOW2Map) {
        let index = map.entryIndex(GuestOffset(cluster << map.clusterBits))
        let old = MappingWord(map.cache.word(slice, index))
        let host =
            (write.host.bytes >> map.clusterBits + cluster - write.guest.bytes >> map.clusterBits) << map.clusterBits
        if write.isNew { unlink(old, map) }
        guard map.rules.subclusters else {
            return change(slice, index, host | MappingWord.copied, map)
        }
        var bits: UInt64 = 0xffff_ffff
        if !write.isWhole {
            let first = write.guest.bytes >> map.subclusterBits & 31
            let units = (UInt64(1) << (write.length >> map.subclusterBits) - 1) << first
            bits = (map.cache.word(slice, index + 1) | units) & ~(units << 32)
        }
        changePair(slice, index, host | MappingWord.copied, bits, map)
    }

    /// The references that an entry has are dropped, once the disk has its successor.
    mutating func unlink(_ word: MappingWord, _ map: QCOW2Map) {
        guard !map.rules.external else { return }
        if word.isCompressed {
            let stream = map.rules.compressedRange(word.raw)
            let last = (stream.host + stream.bytes - 1) >> map.clusterBits
            for cluster in stream.host >> map.clusterBits...last { drop(DroppedReference(cluster: cluster)) }
        } else if word.offset != 0, !word.isDamaged {
            drop(DroppedReference(cluster: word.offset >> map.clusterBits))
        }
    }

    /// A reference that the mapping in memory has no more.
    mutating func drop(_ reference: DroppedReference) { dropped.append(reference) }

    /// Changes a word of a pinned slice.
    mutating func change(_ slice: Int, _ index: Int, _ word: UInt64, _ map: QCOW2Map) {
        // Before it is true in memory: a request that reads it there may be answered.
        record(slice, index, word, 0, map)
        map.cache.set(slice, index, word)
        markDirty(slice, index, map)
    }

    /// Changes both words of an extended entry of a pinned slice.
    mutating func changePair(_ slice: Int, _ index: Int, _ first: UInt64, _ second: UInt64, _ map: QCOW2Map) {
        record(slice, index, first, second, map)
        map.cache.setPair(slice, index, first, second)
        markDirty(slice, index, map)
        markDirty(slice, index + 1, map)
    }

    /// Changes an L1 entry.
    mutating func changeL1(_ index: Int, _ word: UInt64, _ map: QCOW2Map) {
        map.l1.set(index, word)
        dirtyL1.insert(index)
    }

    private func record(_ slice: Int, _ index: Int, _ word: UInt64, _ bits: UInt64, _ map: QCOW2Map) {
        guard let journal, !isReplaying else { return }
        let inSlice = UInt64(map.rules.subclusters ? index >> 1 : index)
        let first = UInt64(slice) << (map.sliceCoverageBits - map.clusterBits)
        journal.append(first + inSlice, word: word, bits: bits, clusterSize: map.clusterSize)
    }

    /// A slice that the disk lacks stays in memory.
    private func markDirty(_ slice: Int, _ index: Int, _ map: QCOW2Map) {
        guard let slot = map.cache.slot(slice) else { return }
        // It is pinned for the write: one more reason is always granted.
        if dirtySlices.mark(slice, slot: slot, index) { _ = map.cache.pin(slice) }
    }

    // MARK: write-back

    /// All changes so far, taken for a write-back: the words are those of this moment.
    mutating func take(_ map: QCOW2Map) -> MappingChanges {
        let changes = MappingChanges(
            slices: dirtySlices.takeAll().map { ($0, SliceRun.runs(of: $0, in: map)) },
            l1: dirtyL1.map { ($0, map.l1[$0]) }, dropped: dropped)
        (dirtyL1, dropped) = ([], [])
        isWritingBack = true
        if !isReplaying { journal?.take() }
        return changes
    }

    /// The disk has what was taken.
    mutating func finish(_ changes: MappingChanges, _ map: QCOW2Map) {
        for slice in changes.slices { map.cache.unpin(slice.dirty.slice) }
        // While records are still being replayed, the disk lacks some of them.
        if !isReplaying { journal?.dropTaken() }
        isWritingBack = false
    }

    /// The disk may lack what was taken: it waits for the next write-back.
    mutating func putBack(_ changes: MappingChanges, _ map: QCOW2Map) {
        for slice in changes.slices {
            // The pin that it had goes on; one that was changed meanwhile has its own.
            if !dirtySlices.mark(slice.dirty) { map.cache.unpin(slice.dirty.slice) }
        }
        dirtyL1.formUnion(changes.l1.map(\.index))
        dropped = changes.dropped + dropped
        isWritingBack = false
        if !isReplaying { journal?.putBack() }
    }

    /// What a write-back has taken away from the disk's mapping is freed by the next one.
    mutating func keep(_ freed: FreedClusters) { dropped = freed.list + dropped }

    // MARK: journal

    /// Whether changes are recorded in a journal.
    var hasJournal: Bool { journal != nil }
    /// Changes are recorded in `journal` from here on.
    mutating func use(_ journal: MappingJournal) { self.journal = journal }
    /// Changes from here on come out of a journal.
    mutating func beginReplay() { isReplaying = true }
    mutating func endReplay() { isReplaying = false }
    /// A sync has failed: the next process must not promise anything either.
    func failJournal() { journal?.fail() }
    /// The disk has everything: the next process finds nothing to replay.
    func endJournal() { journal?.end() }
}

/// Changes of the mapping on their way to the disk.
struct MappingChanges {
    let slices: [(dirty: DirtyWords, runs: [SliceRun])]
    let l1: [(index: Int, word: UInt64)]
    let dropped: [DroppedReference]
}
