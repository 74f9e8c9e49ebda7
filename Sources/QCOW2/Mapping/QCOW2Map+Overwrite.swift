// Whether a write may go where the bytes are: only if nothing else refers to that cluster, which the COPIED flag of
// its entry says, in a table that is not shared either (specification: "L2 table entry"). Everything else is
// allocated, never overwritten.

public import DiskTypes

extension QCOW2Map {
    /// `plainOffset` for a write: nil means only: ask `lookupForWrite`. Takes no lock.
    public func overwritableOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        let inCluster = guest.bytes & (clusterSize &- 1)
        if subclusterBits != clusterBits { return subclusterOffset(guest, length, asking: MappingWord.copied) }
        guard length <= clusterSize &- inCluster else { return nil }
        let slice = guest.bytes &>> sliceCoverageBits
        guard guest.bytes < size, let view = cache.view(Int(truncatingIfNeeded: slice)) else { return nil }
        let index = (guest.bytes &>> clusterBits) &- (slice &<< (sliceCoverageBits &- clusterBits))
        let word = MappingWord(view[Int(truncatingIfNeeded: index)])
        guard cache.holds(view), word.isOverwritable else { return nil }
        return HostOffset(word.offset &+ inCluster)
    }

    /// Whether `length` (> 0) bytes at `guest`, which lie inside `size`, can be written in place. Takes no lock.
    public func lookupForWrite(_ guest: GuestOffset, length: UInt64) -> WriteAnswer {
        let entry = MappingWord(l1[Int(truncatingIfNeeded: guest.bytes >> coverageBits)])
        let tableRest = (1 << coverageBits) - (guest.bytes & ((1 << coverageBits) - 1))
        if entry.raw == 0 { return .allocate(min(length, tableRest)) }
        if entry.isDamaged {
            return .damaged(damage(entry.damage, guest, length, bits: coverageBits, table: 0))
        }
        let slice = Int(truncatingIfNeeded: guest.bytes >> sliceCoverageBits)
        while let view = cache.view(slice) {
            let answer = scanForWrite(view, guest, length, table: entry.offset)
            if cache.holds(view) { return answer }
        }
        return .needs(tableRead(slice, l2Table: entry.offset))
    }

    private func scanForWrite(
        _ view: L2SliceCache.View, _ guest: GuestOffset, _ length: UInt64, table: UInt64
    ) -> WriteAnswer {
        let first = word(view, guest)
        if first.isDamaged { return .damaged(damage(first.damage, guest, length, bits: clusterBits, table: table)) }
        let end = min(guest.bytes + length, (guest.bytes >> sliceCoverageBits + 1) << sliceCoverageBits)
        guard let start = place(view, guest) else {
            // Up to where something can be overwritten again.
            var next = unitEnd(guest.bytes)
            while next < end, !word(view, GuestOffset(next)).isDamaged, place(view, GuestOffset(next)) == nil {
                next = unitEnd(next)
            }
            return .allocate(min(next, end) - guest.bytes)
        }
        var next = unitEnd(guest.bytes)
        while next < end, place(view, GuestOffset(next)) == start + (next - guest.bytes) { next = unitEnd(next) }
        return .inPlace(Extent(guest: guest, length: min(next, end) - guest.bytes, kind: .data, host: start))
    }

    private func word(_ view: L2SliceCache.View, _ guest: GuestOffset) -> MappingWord {
        MappingWord(view[entryIndex(guest)])
    }

    /// Which word of its slice holds the entry of `guest`.
    func entryIndex(_ guest: GuestOffset) -> Int {
        let perSlice = 1 << Int(truncatingIfNeeded: sliceCoverageBits - clusterBits)
        let index = Int(truncatingIfNeeded: guest.bytes >> clusterBits) & (perSlice - 1)
        return rules.subclusters ? 2 * index : index
    }

    /// Where the byte at `guest` may be overwritten; nil where it may not.
    private func place(_ view: L2SliceCache.View, _ guest: GuestOffset) -> HostOffset? {
        let index = entryIndex(guest)
        let word = MappingWord(view[index])
        let at = HostOffset(word.offset + guest.bytes & (clusterSize - 1))
        guard rules.subclusters else { return word.isOverwritable || isFirstOfExternal(word) ? at : nil }
        guard !word.isDamaged, !word.isCompressed, word.raw & MappingWord.copied != 0 else { return nil }
        return view[index + 1] >> (guest.bytes >> subclusterBits & 31) & 1 != 0 ? at : nil
    }

    /// A standard entry whose cluster may be overwritten.
    func isInPlace(_ word: MappingWord) -> Bool { word.isOverwritable || isFirstOfExternal(word) }

    /// Offset 0 is a place like any other in an external data file, where COPIED says whether it is mapped.
    func isFirstOfExternal(_ word: MappingWord) -> Bool {
        rules.external && word.raw == MappingWord.copied
    }

    /// First byte after the cluster or subcluster that holds `guest`.
    private func unitEnd(_ guest: UInt64) -> UInt64 { (guest >> subclusterBits + 1) << subclusterBits }
}

extension MappingWord {
    /// Plain data in a cluster with one reference.
    @inline(__always) var isOverwritable: Bool {
        offset != 0 && raw & (Self.copied | Self.compressed | 0x1ff) == Self.copied
    }
}
