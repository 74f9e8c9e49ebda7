// The part of a repair that makes the refcount structure anew, where it is missing, cut short or run over by something
// else. The new one is complete and durable behind the last used cluster before the header names it, so a crash leaves
// the old state; the old clusters are free from the switch on.

import DiskTypes

extension ImageRepair {
    /// Writes a new refcount table with its blocks and switches the header to it.
    func rebuild() throws(ImageError) {
        let plan = try planStructure()
        // The file would grow over what was cut off, which would then read as zeros.
        guard !checker.hasTooManyDangling,
            !checker.dangling.contains(where: { $0.upperBound >= checker.fileClusters && $0.lowerBound < plan.start })
        else {
            throw .unsupported(
                "the refcounts need to be made anew, and entries point past the end of the file: it is truncated",
                advice: "copy what is left of it with qblk convert")
        }
        let order = checker.stored.order
        let clusterSize = Int(checker.clusterSize)
        var table = [UInt64](repeating: 0, count: plan.tableEntries)
        for (number, index) in plan.blocks.enumerated() {
            try checker.stopIfInterrupted()
            let place = plan.start + UInt64(number)
            table[index] = place << checker.clusterBits
            var block = [UInt8](repeating: 0, count: clusterSize)
            for (slot, cluster) in checker.stored.clusters(ofBlock: index).enumerated() {
                let count = plan.clusters.contains(cluster) ? 1 : try wanted(cluster)
                if count != 0 { RefcountBlock.store(count, into: &block, slot, order: order) }
            }
            try write(block, at: HostOffset(table[index]))
        }
        let tablePlace = HostOffset((plan.start + UInt64(plan.blocks.count)) << checker.clusterBits)
        let entries = Int(plan.tableClusters) * clusterSize / 8
        table += [UInt64](repeating: 0, count: entries - table.count)
        try write(table.flatMap { bigEndian($0) }, at: tablePlace)
        try endStep()
        try write(bigEndian(tablePlace.bytes) + bigEndian(UInt32(plan.tableClusters)), at: HostOffset(48))
        try endStep()
    }

    /// Where the new structure goes.
    struct StructurePlan {
        var start: UInt64
        /// The blocks that are needed, by the clusters they count.
        var blocks: [Int]
        var tableEntries: Int
        var tableClusters: UInt64
        var clusters: Range<UInt64> { start..<(start + UInt64(blocks.count) + tableClusters) }
    }

    private func planStructure() throws(ImageError) -> StructurePlan {
        guard !checker.hasTooManyDangling else {
            throw .unsupported(
                "so many entries point nowhere that there is no safe place for a new refcount table",
                advice: "read what can be read with qblk convert --salvage")
        }
        let used = try blocksInUse()
        let end = max(checker.counts.highest ?? 0, checker.highestStored ?? 0) + 1
        var plan = StructurePlan(start: end, blocks: used.sorted(), tableEntries: 0, tableClusters: 1)
        // The structure counts itself: each round can only need more, and soon needs no more.
        while true {
            plan.start = place(for: plan, from: end)
            var needed = used.union(plan.blocks)
            for cluster in stride(
                from: plan.clusters.lowerBound, to: plan.clusters.upperBound, by: 1 << checker.stored.blockBits)
            {
                needed.insert(try blockIndex(cluster))
            }
            needed.insert(try blockIndex(plan.clusters.upperBound - 1))
            let blocks = needed.sorted()
            let entries = (blocks.last ?? 0) + 1
            let tableClusters = (UInt64(entries) * 8 + checker.clusterSize - 1) >> checker.clusterBits
            if blocks == plan.blocks, tableClusters <= plan.tableClusters {
                plan.tableEntries = entries
                return plan
            }
            plan.blocks = blocks
            plan.tableClusters = max(tableClusters, plan.tableClusters)
        }
    }

    /// The first run of clusters behind everything that nothing points to, not even a broken entry.
    private func place(for plan: StructurePlan, from end: UInt64) -> UInt64 {
        var at = end
        let length = UInt64(plan.blocks.count) + plan.tableClusters
        for range in checker.dangling.sorted(by: { $0.lowerBound < $1.lowerBound }) where range.upperBound >= at {
            if range.lowerBound >= at + length { break }
            at = range.upperBound == .max ? .max >> 16 : range.upperBound + 1
        }
        return at
    }

    private func blocksInUse() throws(ImageError) -> Set<Int> {
        var used: Set<Int> = []
        let stored = checker.stored
        // Leaks that are kept need their blocks.
        if !mayLower {
            used.formUnion(
                stored.table.indices.filter {
                    stored.table[$0] != 0 && stored.clusters(ofBlock: $0).lowerBound < checker.fileClusters
                })
        }
        var last = -1
        try checker.counts.forEach(in: 0..<UInt64.max, pageStarts: checker.counts.pageStarts) {
            cluster, _ throws(ImageError) in
            let index = try blockIndex(cluster)
            if index != last { used.insert(index) }
            last = index
        }
        return used
    }

    private func blockIndex(_ cluster: UInt64) throws(ImageError) -> Int {
        let index = cluster >> checker.stored.blockBits
        guard index < Limits.refcountTableBytes / 8 else {
            throw .unsupported(
                "the image is too long for a refcount table with this cluster size and refcount width",
                advice: "convert it to larger clusters")
        }
        return Int(index)
    }
}
