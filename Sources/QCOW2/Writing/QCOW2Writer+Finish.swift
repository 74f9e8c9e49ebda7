// The moment at which new bytes become the guest's: they are written, and the entry that names them changes in
// memory. What the entry named before is given up, but not free before the disk has forgotten it, too.

import DiskTypes
import Synchronization

extension QCOW2Writer {
    /// Ends a ticket. `isWritten`: all bytes that it asked for are in the file; else nothing changes. True: there is so
    /// much that the disk lacks that it should go out now.
    @discardableResult public func finish(_ ticket: AllocatingWrite, isWritten: Bool) -> Bool {
        state.withLock { state in
            let first = ticket.guest.bytes >> map.clusterBits
            let slice = Int(truncatingIfNeeded: ticket.guest.bytes >> map.sliceCoverageBits)
            if isWritten { for i in 0..<ticket.clusters { link(ticket, first + i, slice, &state) } }
            state.tickets.remove(first)
            if !isWritten, ticket.isNew {
                let host = ticket.host.bytes >> map.clusterBits
                // Their block was in memory a moment ago, dirty, and is so still.
                for i in 0..<ticket.clusters { _ = try? state.refcounts.release(host + i) }
            }
            map.cache.unpin(slice)
            // Once it is being written out, the check need not be made again.
            return isFull(state) && !state.isWritingBack
        }
    }

    private func link(_ ticket: AllocatingWrite, _ cluster: UInt64, _ slice: Int, _ state: inout State) {
        let index = map.entryIndex(GuestOffset(cluster << map.clusterBits))
        let old = MappingWord(map.cache.word(slice, index))
        let host =
            (ticket.host.bytes >> map.clusterBits + cluster - ticket.guest.bytes >> map.clusterBits)
            << map.clusterBits
        if ticket.isNew { unlink(old, &state) }
        guard map.rules.subclusters else {
            return change(slice, index, host | MappingWord.copied, &state)
        }
        var bits: UInt64 = 0xffff_ffff
        if !ticket.isWhole {
            let first = ticket.guest.bytes >> map.subclusterBits & 31
            let units = (UInt64(1) << (ticket.length >> map.subclusterBits) - 1) << first
            bits = (map.cache.word(slice, index + 1) | units) & ~(units << 32)
        }
        changePair(slice, index, host | MappingWord.copied, bits, &state)
    }

    // MARK: entries

    /// The references that an entry has are given up, once the disk has its successor.
    func unlink(_ word: MappingWord, _ state: inout State) {
        guard !map.rules.external else { return }
        if word.isCompressed {
            let stream = map.rules.compressedRange(word.raw)
            let last = (stream.host + stream.bytes - 1) >> map.clusterBits
            for cluster in stream.host >> map.clusterBits...last {
                state.unlinked.append(DroppedReference(cluster: cluster))
            }
        } else if word.offset != 0, !word.isDamaged {
            state.unlinked.append(DroppedReference(cluster: word.offset >> map.clusterBits))
        }
    }

    func change(_ slice: Int, _ index: Int, _ word: UInt64, _ state: inout State) {
        // Before it is true in memory: who reads it there may be answered.
        note(slice, index, word, 0, &state)
        map.cache.set(slice, index, word)
        markDirty(slice, index, &state)
    }

    func changePair(_ slice: Int, _ index: Int, _ first: UInt64, _ second: UInt64, _ state: inout State) {
        note(slice, index, first, second, &state)
        map.cache.setPair(slice, index, first, second)
        markDirty(slice, index, &state)
        markDirty(slice, index + 1, &state)
    }

    private func note(_ slice: Int, _ index: Int, _ word: UInt64, _ bits: UInt64, _ state: inout State) {
        guard let journal = state.journal, !state.isAdopting else { return }
        let inSlice = UInt64(map.rules.subclusters ? index >> 1 : index)
        let first = UInt64(slice) << (map.sliceCoverageBits - map.clusterBits)
        journal.append(first + inSlice, word: word, bits: bits, clusterSize: map.clusterSize)
    }

    /// A slice that the disk lacks stays in memory.
    private func markDirty(_ slice: Int, _ index: Int, _ state: inout State) {
        guard let slot = map.cache.slot(slice) else { return }
        // It is pinned for the ticket: one more reason is always granted.
        if state.dirtySlices.mark(slice, slot: slot, index) { _ = map.cache.pin(slice) }
    }
}
