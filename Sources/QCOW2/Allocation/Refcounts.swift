// The refcounts of an image that is written, and with them which host clusters are free. Blocks of refcounts are loaded
// when they are needed; new blocks, and a larger table for them, are laid out in memory at once and reach the disk in the
// order that WriteBack keeps.

import DiskTypes

/// Why a refcount cannot be told or changed now.
enum RefcountObstacle: Error, Equatable {
    /// The refcount block of this number must be loaded first.
    case block(Int)
    /// There is no room in the format, or on the device.
    case full
    /// A cluster counts as free and holds metadata: the image is corrupt.
    case corrupt(cluster: UInt64)
}

/// Refcounts of one image, for its one writer.
struct Refcounts {
    let clusterBits: UInt64
    let order: Int
    /// Host offsets of the blocks; 0: all of its refcounts are 0.
    private(set) var table: [UInt64]
    private(set) var tableOffset: UInt64
    private(set) var blocks: [Int: CachedRefcountBlock] = [:]
    /// No free cluster is before this one.
    private var cursor: UInt64 = 0
    /// Clusters that hold metadata, whatever their refcounts say. No data goes there.
    var metadata: Set<UInt64>
    /// One past the last cluster in use.
    var end: UInt64
    /// Clusters of a device that cannot grow.
    let limit: UInt64

    /// What the disk does not have yet.
    private(set) var dirtyEntries: Set<Int> = []
    private(set) var isMoved = false
    /// Clusters of tables that were replaced, to be freed once nothing refers to them.
    private(set) var retired: [UInt64] = []

    private static let cacheBytes = 64 << 20
    /// Blocks are for this many clusters each.
    var perBlock: UInt64 { 1 << (clusterBits + 3 - UInt64(order)) }
    var clusterSize: Int { 1 << Int(clusterBits) }
    var tableClusters: Int { max(1, (table.count * 8) >> Int(clusterBits)) }

    init(_ header: Header, table: [UInt64], metadata: Set<UInt64>, fileLength: UInt64, canGrow: Bool) {
        clusterBits = UInt64(header.clusterBits)
        order = Int(header.refcountOrder)
        self.table = table
        tableOffset = header.refcountTableOffset.bytes
        self.metadata = metadata
        let clusters = fileLength >> UInt64(header.clusterBits)
        end = (fileLength + header.clusterSize - 1) >> UInt64(header.clusterBits)
        limit = canGrow ? Limits.hostOffset >> UInt64(header.clusterBits) : clusters
    }

    // MARK: counts

    func count(of cluster: UInt64) throws(RefcountObstacle) -> UInt64 {
        let b = Int(cluster / perBlock)
        guard b < table.count, table[b] != 0 else { return 0 }
        guard let block = blocks[b] else { throw .block(b) }
        return block[Int(cluster % perBlock)]
    }

    /// Takes in a block that was asked for.
    mutating func supply(_ b: Int, _ bytes: [UInt8]) {
        guard blocks[b] == nil, bytes.count == clusterSize else { return }
        if blocks.count * clusterSize > Self.cacheBytes, let old = blocks.first(where: { $0.value.dirty == nil })?.key {
            blocks[old] = nil
        }
        blocks[b] = CachedRefcountBlock(bytes, order: order)
    }

    /// Gives a reference back; a cluster without any is free from here on. True: it is free.
    mutating func release(_ cluster: UInt64) throws(RefcountObstacle) -> Bool {
        let before = try count(of: cluster)
        // An image that counted too little has its leak the other way round: never below 0.
        guard before > 0, let block = blocks[Int(cluster / perBlock)] else { return false }
        let now = before - 1
        block[Int(cluster % perBlock)] = now
        guard now == 0 else { return false }
        metadata.remove(cluster)
        cursor = min(cursor, cluster)
        return true
    }

    // MARK: allocation

    /// Takes up to `count` free clusters in a row, at least one, for data or, one by one, for metadata.
    mutating func allocate(_ count: Int, asMetadata: Bool = false) throws(RefcountObstacle) -> Range<UInt64> {
        while true {
            let b = Int(cursor / perBlock)
            guard cursor < limit else { throw .full }
            if b >= table.count { try growTable(for: b) }
            if table[b] == 0 { try makeBlock(b) }
            guard let block = blocks[b] else { throw .block(b) }
            guard let free = block.firstFree(from: Int(cursor % perBlock)) else {
                cursor = UInt64(b + 1) * perBlock
                continue
            }
            let first = UInt64(b) * perBlock + UInt64(free)
            var last = first
            while last - first < UInt64(count), free + Int(last - first) < block.count,
                block[free + Int(last - first)] == 0
            {
                guard !metadata.contains(last) else { throw .corrupt(cluster: last) }
                guard last < limit else { break }
                last += 1
            }
            guard last > first else { throw .full }
            for i in 0..<Int(last - first) { block[free + i] = 1 }
            cursor = last
            end = max(end, last)
            if asMetadata { for cluster in first..<last { metadata.insert(cluster) } }
            return first..<last
        }
    }

    /// Counts a cluster that a killed process had taken: once, whether the disk knows of it or not.
    mutating func adopt(_ cluster: UInt64) throws(RefcountObstacle) {
        let b = Int(cluster / perBlock)
        guard cluster < limit else { throw .full }
        if b >= table.count { try growTable(for: b) }
        if table[b] == 0 { try makeBlock(b) }
        guard let block = blocks[b] else { throw .block(b) }
        let i = Int(cluster % perBlock)
        guard !metadata.contains(cluster), block[i] <= 1 else { throw .corrupt(cluster: cluster) }
        if block[i] == 0 { block[i] = 1 }
        end = max(end, cluster + 1)
    }

    /// A block that does not exist has only free clusters: it goes into the first of them.
    private mutating func makeBlock(_ b: Int) throws(RefcountObstacle) {
        let own = UInt64(b) * perBlock
        guard own < limit else { throw .full }
        guard !metadata.contains(own) else { throw .corrupt(cluster: own) }
        let block = CachedRefcountBlock([UInt8](repeating: 0, count: clusterSize), order: order, isNew: true)
        block[0] = 1
        place(b, block, at: own)
    }

    mutating func place(_ b: Int, _ block: CachedRefcountBlock, at cluster: UInt64) {
        blocks[b] = block
        table[b] = cluster << clusterBits
        dirtyEntries.insert(b)
        metadata.insert(cluster)
        end = max(end, cluster + 1)
    }

    /// A table with room for block `b` and more, behind the blocks that count it: all of them where nothing is counted yet.
    mutating func growTable(for b: Int) throws(RefcountObstacle) {
        let first = UInt64(b) * perBlock
        var newBlocks: UInt64 = 1
        var tableClusters: UInt64 = 0
        while true {
            let entries = max(UInt64(b) + newBlocks + 1, UInt64(table.count) * 3 / 2)
            tableClusters = (entries * 8 + UInt64(clusterSize) - 1) >> clusterBits
            if newBlocks * perBlock >= newBlocks + tableClusters { break }
            newBlocks += 1
        }
        guard tableClusters << clusterBits <= Limits.refcountTableBytes, first + newBlocks + tableClusters <= limit
        else { throw .full }
        let used = first..<(first + newBlocks + tableClusters)
        for cluster in used where metadata.contains(cluster) { throw .corrupt(cluster: cluster) }
        let old = tableOffset >> clusterBits
        retired += Array(old..<(old + UInt64(self.tableClusters)))
        table += [UInt64](repeating: 0, count: Int(tableClusters << clusterBits / 8) - table.count)
        for i in 0..<newBlocks {
            let block = CachedRefcountBlock([UInt8](repeating: 0, count: clusterSize), order: order, isNew: true)
            place(b + Int(i), block, at: first + i)
        }
        for cluster in used {
            blocks[Int(cluster / perBlock)]?[Int(cluster % perBlock)] = 1
            metadata.insert(cluster)
        }
        tableOffset = (first + newBlocks) << clusterBits
        isMoved = true
        end = max(end, used.upperBound)
    }

    // MARK: to the disk

    /// Everything that the disk does not have yet, taken for it.
    mutating func takeDirty() -> RefcountChanges {
        var changes = RefcountChanges()
        for (b, block) in blocks {
            guard let part = block.takeDirty() else { continue }
            changes.blocks.append((b, part.start, HostOffset(table[b] + UInt64(part.start)), part.bytes))
        }
        if isMoved {
            changes.movedTable = (HostOffset(tableOffset), UInt32(tableClusters), table.flatMap(bigEndian))
        } else {
            changes.entries = dirtyEntries.map { ($0, HostOffset(tableOffset + UInt64($0 * 8)), bigEndian(table[$0])) }
        }
        changes.retired = retired
        (dirtyEntries, isMoved, retired) = ([], false, [])
        return changes
    }

    /// Changes that did not reach the disk wait for the next time.
    mutating func putBack(_ changes: RefcountChanges) {
        for part in changes.blocks { blocks[part.block]?.taint(part.start..<part.start + part.bytes.count) }
        for entry in changes.entries { dirtyEntries.insert(entry.index) }
        if changes.movedTable != nil { isMoved = true }
        retired += changes.retired
    }

    var isDirty: Bool { isMoved || !dirtyEntries.isEmpty || blocks.values.contains { $0.dirty != nil } }
}

/// Changed refcounts on their way to the disk.
struct RefcountChanges {
    var blocks: [(block: Int, start: Int, host: HostOffset, bytes: [UInt8])] = []
    var entries: [(index: Int, host: HostOffset, bytes: [UInt8])] = []
    /// The whole table, at a new place, and its clusters.
    var movedTable: (host: HostOffset, clusters: UInt32, bytes: [UInt8])?
    var retired: [UInt64] = []
}
