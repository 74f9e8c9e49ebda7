// The lookup itself, the one function every request of every guest goes through. It takes no lock, allocates nothing
// and answers with the longest run it can see without I/O.

public import DiskTypes

extension QCOW2Map {
    /// See `BlockMap.lookup`. Takes no lock and allocates nothing.
    public func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        let answer = lookupSlice(guest, length)
        guard case .extent(var run) = answer, run.length < length, run.kind != .compressed else { return answer }
        // The run ended, with its slice or for good. Go on while the neighbour is in memory and continues it.
        while run.length < length, run.end.bytes & ((1 << sliceCoverageBits) - 1) == 0 {
            guard case .extent(let next) = lookupSlice(run.end, length - run.length), run.continues(into: next) else {
                break
            }
            run.length += next.length
        }
        return .extent(run)
    }

    /// The answer out of one slice of one L2 table, or out of L1 where there is no table.
    @inline(__always)
    private func lookupSlice(_ guest: GuestOffset, _ length: UInt64) -> MapAnswer {
        let l1Index = Int(truncatingIfNeeded: guest.bytes >> coverageBits)
        let entry = MappingWord(l1[l1Index])
        if entry.raw == 0 { return .extent(unallocatedTables(guest, length, from: l1Index)) }
        if entry.isDamaged {
            return .damaged(damage(entry.damage, guest, length, bits: coverageBits, table: 0))
        }
        let slice = Int(truncatingIfNeeded: guest.bytes >> sliceCoverageBits)
        while let view = cache.view(slice) {
            let answer =
                subclusterBits == clusterBits
                ? scanStandard(view, guest, length, table: entry.offset)
                : scanExtended(view, guest, length, table: entry.offset)
            if cache.holds(view) { return answer }
        }
        return .needs(tableRead(slice, l2Table: entry.offset))
    }

    func tableRead(_ slice: Int, l2Table: UInt64) -> TableRead {
        let indexInTable = UInt64(slice) & ((1 << (coverageBits - sliceCoverageBits)) - 1)
        return TableRead(
            layer: 0, file: 0, host: HostOffset(l2Table + indexInTable * sliceBytes), length: UInt32(sliceBytes),
            token: UInt64(slice) | UInt64(cache.generation(slice)) << 32)
    }

    /// Whole L2 tables are missing: one extent over all that follow, without visiting what was not asked for.
    private func unallocatedTables(_ guest: GuestOffset, _ length: UInt64, from l1Index: Int) -> Extent {
        var index = l1Index + 1
        var end = UInt64(index) << coverageBits
        while end < guest.bytes + length, index < l1.count, l1[index] == 0 {
            index += 1
            end = UInt64(index) << coverageBits
        }
        return Extent(guest: guest, length: min(length, end - guest.bytes), kind: .unallocated)
    }

    func damage(
        _ reason: MapDamage.Reason, _ guest: GuestOffset, _ length: UInt64, bits: UInt64, table: UInt64
    ) -> MapDamage {
        let rest = (1 << bits) - (guest.bytes & ((1 << bits) - 1))
        return MapDamage(reason: reason, guest: guest, length: min(length, rest), table: HostOffset(table))
    }

    func compressedExtent(_ word: UInt64, _ guest: GuestOffset, _ length: UInt64) -> Extent {
        let stream = rules.compressedRange(word)
        let inCluster = guest.bytes & (clusterSize - 1)
        return Extent(
            guest: guest, length: min(length, clusterSize - inCluster), kind: .compressed,
            host: HostOffset(stream.host), hostLength: UInt32(truncatingIfNeeded: stream.bytes),
            clusterStart: GuestOffset(guest.bytes - inCluster))
    }

    /// Standard entries: one word a cluster.
    @inline(__always)
    private func scanStandard(
        _ view: L2SliceCache.View, _ guest: GuestOffset, _ length: UInt64, table: UInt64
    ) -> MapAnswer {
        let perSlice = 1 << Int(truncatingIfNeeded: sliceCoverageBits - clusterBits)
        var index = Int(truncatingIfNeeded: guest.bytes >> clusterBits) & (perSlice - 1)
        let first = MappingWord(view[index])
        if first.isCompressed { return .extent(compressedExtent(first.raw, guest, length)) }
        if first.isDamaged { return .damaged(damage(first.damage, guest, length, bits: clusterBits, table: table)) }
        let kind = standardKind(first)
        let moves: UInt64 = kind == .data || kind == .zeroAllocated ? clusterSize : 0
        let inCluster = guest.bytes & (clusterSize - 1)
        var covered = clusterSize - inCluster
        var expected = first.offset &+ moves
        index += 1
        while covered < length, index < perSlice {
            let next = MappingWord(view[index])
            guard !next.isCompressed, !next.isDamaged, standardKind(next) == kind, next.offset == expected else {
                break
            }
            covered += clusterSize
            expected = expected &+ moves
            index += 1
        }
        return .extent(
            Extent(guest: guest, length: min(length, covered), kind: kind, host: HostOffset(first.offset + inCluster)))
    }

    @inline(__always)
    private func standardKind(_ word: MappingWord) -> ExtentKind {
        let mapped = word.offset != 0 || (rules.external && word.raw & MappingWord.copied != 0)
        if word.hasZeroFlag { return mapped ? .zeroAllocated : .zero }
        return mapped ? .data : .unallocated
    }
}
