// The refcounts of an image that is written from start to end and grows cluster by cluster. The counts gather here and
// leave block by block, so that a terabyte's worth is never in memory.

import DiskTypes

/// The refcounts of a growing file: clusters are added at its end, and a block is done when its last one is settled.
struct RefcountWriter: Sendable {
    private let order: UInt64
    private let perBlock: UInt64
    private let clusterSize: UInt64
    /// First cluster that `bytes` speaks of; a multiple of `perBlock`.
    private var first: UInt64 = 0
    /// Whole blocks from `first` on.
    private var bytes: [UInt8] = []
    /// Where the blocks are that have left.
    private(set) var table: [UInt64] = []
    /// Clusters counted so far: the file's end.
    private(set) var end: UInt64 = 0

    init(_ image: NewImage) {
        order = image.refcountOrder
        perBlock = image.refcountsPerBlock
        clusterSize = image.clusterSize
    }

    /// Adds clusters at the end, each with one reference; the first one's number.
    mutating func append(_ count: UInt64) -> UInt64 {
        let start = end
        end += count
        while first + UInt64(bytes.count << 3) >> order < end {
            bytes += [UInt8](repeating: 0, count: Int(clusterSize))
        }
        for cluster in start..<end { set(cluster, 1) }
        return start
    }

    /// Changes the count of a cluster whose block is still here.
    mutating func set(_ cluster: UInt64, _ value: UInt64) {
        RefcountBlock.store(value, into: &bytes, Int(cluster - first), order: UInt32(order))
    }

    /// Takes the blocks out that lie below cluster `settled`. Each gets a cluster at the end, counted like all others.
    mutating func takeBlocks(below settled: UInt64) -> [TableWrite] {
        var writes: [TableWrite] = []
        while first + perBlock <= settled { writes.append(takeBlock()) }
        return writes
    }

    private mutating func takeBlock(at place: UInt64? = nil) -> TableWrite {
        let host = (place ?? append(1)) * clusterSize
        let block = Array(bytes[..<Int(clusterSize)])
        bytes.removeFirst(Int(clusterSize))
        first += perBlock
        table.append(host)
        return TableWrite(host: HostOffset(host), bytes: block)
    }

    /// The blocks that are left and the table of all, which count themselves. The table is the last thing in the file.
    mutating func finish() throws(ImageError) -> (writes: [TableWrite], table: HostOffset, clusters: UInt64) {
        let done = UInt64(table.count)
        var blocks: UInt64 = 0
        var tableClusters: UInt64 = 1
        while true {
            let total = end + blocks + tableClusters
            let needed = (total + perBlock - 1) / perBlock - done
            let clusters = ((done + needed) * 8 + clusterSize - 1) / clusterSize
            if needed == blocks, clusters == tableClusters { break }
            (blocks, tableClusters) = (needed, clusters)
        }
        guard tableClusters * clusterSize <= Limits.refcountTableBytes else {
            throw .unsupported(
                "the image needs a larger refcount table than the format has", advice: "try a larger cluster size")
        }
        let start = append(blocks + tableClusters)
        var writes: [TableWrite] = []
        for i in 0..<blocks { writes.append(takeBlock(at: start + i)) }
        let place = HostOffset((start + blocks) * clusterSize)
        writes.append(TableWrite(host: place, bytes: BigEndianTable.words(table, count: table.count)))
        return (writes, place, tableClusters)
    }
}
