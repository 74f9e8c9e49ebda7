// Extended L2 entries (specification: "Extended L2 Entries") say for each of a cluster's 32 subclusters whether it is
// allocated or zero. Runs go across subclusters and across clusters alike.

import DiskTypes

extension QCOW2Map {
    func scanExtended(_ view: L2SliceCache.View, _ guest: GuestOffset, _ length: UInt64, table: UInt64) -> MapAnswer {
        let perSlice = 1 << Int(truncatingIfNeeded: sliceCoverageBits - clusterBits)
        var index = Int(truncatingIfNeeded: guest.bytes >> clusterBits) & (perSlice - 1)
        var sub = Int(truncatingIfNeeded: guest.bytes >> subclusterBits) & 31
        let first = MappingWord(view[2 * index])
        if first.isCompressed { return .extent(compressedExtent(first.raw, guest, length)) }
        if first.isDamaged { return .damaged(damage(first.damage, guest, length, bits: clusterBits, table: table)) }

        let subclusterSize: UInt64 = 1 << subclusterBits
        let inSubcluster = guest.bytes & (subclusterSize - 1)
        let kind = subclusterKind(first, view[2 * index + 1], sub)
        var run = Extent(
            guest: guest, length: subclusterSize - inSubcluster, kind: kind,
            host: HostOffset(first.offset + UInt64(sub) << subclusterBits + inSubcluster))
        sub += 1
        while run.length < length {
            if sub == 32 {
                index += 1
                sub = 0
                if index == perSlice { break }
            }
            let word = MappingWord(view[2 * index])
            guard !word.isCompressed, !word.isDamaged else { break }
            let nextKind = subclusterKind(word, view[2 * index + 1], sub)
            let next = Extent(
                guest: run.end, length: subclusterSize, kind: nextKind,
                host: HostOffset(word.offset + UInt64(sub) << subclusterBits))
            guard run.continues(into: next) else { break }
            run.length += subclusterSize
            sub += 1
        }
        run.length = min(run.length, length)
        return .extent(run)
    }

    /// Judged when the table came in: never both bits, never allocated without a cluster.
    private func subclusterKind(_ word: MappingWord, _ bitmap: UInt64, _ sub: Int) -> ExtentKind {
        let allocated = bitmap >> UInt64(sub) & 1 != 0
        let zero = bitmap >> UInt64(sub + 32) & 1 != 0
        let hasCluster = word.offset != 0 || (rules.external && word.raw & MappingWord.copied != 0)
        if allocated { return .data }
        if zero { return hasCluster ? .zeroAllocated : .zero }
        return hasCluster ? .unallocatedReserved : .unallocated
    }
}
