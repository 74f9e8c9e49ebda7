// The part of a check that holds the refcount structure against the references that were counted, its own clusters
// included. Where it is broken nothing is lost: the references say what it must be.

import DiskTypes

extension ImageChecker {
    /// The offsets of the refcount blocks; 0 where there is none that can be used.
    func readRefcountTable() throws(ImageError) -> [UInt64] {
        let at = header.refcountTableOffset
        let bytes = UInt64(header.refcountTableClusters) * clusterSize
        guard bytes > 0, at.bytes & (clusterSize - 1) == 0, at.bytes >= clusterSize, at.bytes < fileLength,
            bytes <= Limits.refcountTableBytes
        else {
            report.needsRebuild = true
            find(.corruption, "the image has no refcount table that can be used", at: at)
            return []
        }
        var table = tableWords(try read(at: at, count: Int(bytes)))
        for (index, word) in table.enumerated() where word != 0 {
            let problem: String? =
                if word & 0x1ff != 0 { "has reserved bits set" } else if word & (clusterSize - 1) != 0 {
                    "is not cluster aligned"
                } else if word >= fileLength { "lies past the end of the file" } else { nil }
            guard let problem else { continue }
            report.needsRebuild = true
            find(.corruption, "refcount block \(index) \(problem)", at: HostOffset(word))
            table[index] = 0
        }
        return table
    }

    /// Counts the table and its blocks. What else uses their clusters is right and they are wrong.
    func claimRefcountStructure() throws(ImageError) {
        let kept = report.keepsLeaks
        let bytes = UInt64(header.refcountTableClusters) * clusterSize
        if !stored.table.isEmpty {
            try claimStructure(header.refcountTableOffset, bytes: bytes, "the refcount table")
        }
        for (index, block) in stored.table.enumerated() where block != 0 {
            // One block named twice counts for its first place: compared at each it could keep a check busy for ever.
            let isRepeated = structure[block >> clusterBits] != nil
            try claimStructure(HostOffset(block), bytes: clusterSize, "refcount block \(index)")
            if isRepeated { stored.table[index] = 0 }
            if index & 0xfff == 0 { try stopIfInterrupted() }
        }
        report.keepsLeaks = kept
    }

    private func claimStructure(
        _ at: HostOffset, bytes: UInt64, _ what: @autoclosure () -> String
    ) throws(ImageError) {
        switch try claim(at, bytes: bytes, as: .unique, what()) {
        case .counted: break
        case .overlapping: report.needsRebuild = true
        case .outside:
            report.needsRebuild = true
            return
        }
        for cluster in (at.bytes >> clusterBits)...((at.bytes + bytes - 1) >> clusterBits) {
            structure[cluster, default: 0] += 1
        }
    }

    /// Holds the stored refcount of every cluster of the file against the references.
    func compareRefcounts() throws(ImageError) {
        let end = max(fileClusters, counts.highest.map { $0 + 1 } ?? 0)
        let starts = counts.pageStarts
        let perBlock: UInt64 = 1 << stored.blockBits
        let blocks = min(UInt64(stored.table.count), (end + perBlock - 1) >> stored.blockBits)
        for index in 0..<Int(blocks) {
            let all = stored.clusters(ofBlock: index)
            let range = all.lowerBound..<min(all.upperBound, end)
            let block = try stored.block(index)
            if let block, block.contains(where: { $0 != 0 }) {
                for cluster in range {
                    let count = RefcountBlock.load(block, Int(cluster - range.lowerBound), order: stored.order)
                    try compare(cluster, stored: count, counts[cluster])
                }
            } else {
                try forEachUnstored(range, starts, hasBlock: block != nil)
            }
            try advance(of: tables.count)
        }
        let first = blocks << stored.blockBits
        if first < end { try forEachUnstored(first..<end, starts, hasBlock: false) }
    }

    /// Clusters whose stored refcounts are all 0.
    private func forEachUnstored(_ range: Range<UInt64>, _ starts: [UInt64], hasBlock: Bool) throws(ImageError) {
        try counts.forEach(in: range, pageStarts: starts) { cluster, count throws(ImageError) in
            if !hasBlock { report.needsRebuild = true }
            try compare(cluster, stored: 0, count)
        }
    }

    private func compare(_ cluster: UInt64, stored count: UInt64, _ references: UInt64) throws(ImageError) {
        if count > 0 { highestStored = cluster }
        if references > stored.largest {
            find(
                .corruption, "cluster \(cluster) has \(references) references, more than a refcount can say",
                at: HostOffset(cluster << clusterBits))
        }
        let wanted = min(references, stored.largest)
        guard count != wanted else { return }
        hasWrongCounts = true
        find(
            count > wanted ? .leak : .corruption, "cluster \(cluster) refcount=\(count) reference=\(references)",
            at: nil)
    }
}
