// Free clusters in a row: a table that grows must lie in one piece, wherever there is room for it. And the end of the
// file: where its last clusters have become free, it can end earlier.

import DiskTypes

/// A search for free clusters in a row, which goes on where it stopped for a block that was not in memory.
struct RowSearch {
    fileprivate var start: UInt64 = 0
    fileprivate var at: UInt64 = 0
    /// Blocks that do not exist yet, and would count clusters of the row.
    fileprivate var newBlocks: [Int] = []
}

extension Refcounts {
    /// Takes `count` free clusters in a row for a table; the first one's number. New blocks that count them lie before them.
    mutating func allocateRow(_ count: UInt64, _ search: inout RowSearch) throws(RefcountObstacle) -> UInt64 {
        try findRow(count, &search)
        let (start, end) = (search.start, search.at)
        for cluster in start..<end where metadata.contains(cluster) { throw .corrupt(cluster: cluster) }
        for b in Int(start / perBlock)...Int((end - 1) / perBlock) where table[b] != 0 && blocks[b] == nil {
            throw .block(b)
        }
        for (i, b) in search.newBlocks.enumerated() {
            let block = CachedRefcountBlock([UInt8](repeating: 0, count: clusterSize), order: order, isNew: true)
            place(b, block, at: start + UInt64(i))
        }
        for cluster in start..<end {
            blocks[Int(cluster / perBlock)]?[Int(cluster % perBlock)] = 1
            metadata.insert(cluster)
        }
        self.end = max(self.end, end)
        return start + UInt64(search.newBlocks.count)
    }

    private mutating func findRow(_ count: UInt64, _ search: inout RowSearch) throws(RefcountObstacle) {
        while search.at - search.start < count + UInt64(search.newBlocks.count) {
            guard search.at < limit else { throw .full }
            let b = Int(search.at / perBlock)
            if b >= table.count {
                // The larger table takes the clusters from here on: what follows it is looked at next.
                try growTable(for: b)
                search = RowSearch(start: search.at, at: search.at)
                continue
            }
            if table[b] == 0 {
                if search.newBlocks.last != b { search.newBlocks.append(b) }
            } else {
                guard let block = blocks[b] else { throw .block(b) }
                if block[Int(search.at % perBlock)] != 0 { search = RowSearch(start: search.at + 1, at: search.at) }
            }
            search.at += 1
        }
    }

    /// Moves `end` back over free clusters.
    mutating func lowerEnd() throws(RefcountObstacle) {
        while end > 1, !metadata.contains(end - 1), try count(of: end - 1) == 0 { end -= 1 }
    }
}
