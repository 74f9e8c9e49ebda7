// The refcounts as the image has them: a table of blocks of counters, 1 to 64 bits wide. Read block by block through
// a small cache, because L2 tables ask for clusters in any order.

import DiskTypes

/// The refcounts that an image stores.
struct StoredRefcounts<Storage: ByteSource> {
    let storage: Storage
    let order: UInt32
    let clusterBits: UInt64
    /// Where each block is; 0 where there is none, or none that can be used.
    var table: [UInt64]
    /// Bytes of the file when it was opened.
    private let fileLength: UInt64
    private var cache: [Int: [UInt8]] = [:]
    private var hot: (index: Int, block: [UInt8]) = (-1, [])
    private let cacheLimit: Int

    init(_ storage: Storage, _ header: Header, table: [UInt64]) {
        self.storage = storage
        fileLength = storage.length
        order = header.refcountOrder
        clusterBits = UInt64(header.clusterBits)
        self.table = table
        cacheLimit = max(4, (16 << 20) >> Int(header.clusterBits))
    }

    var largest: UInt64 { RefcountBlock.largest(order: order) }
    /// Clusters that one block counts: 2 to this power.
    var blockBits: UInt64 { clusterBits + 3 - UInt64(order) }

    /// The clusters that block `index` counts.
    func clusters(ofBlock index: Int) -> Range<UInt64> {
        (UInt64(index) << blockBits)..<((UInt64(index) + 1) << blockBits)
    }

    /// The bytes of a block, as long as a cluster; nil where there is none.
    func block(_ index: Int) throws(ImageError) -> [UInt8]? {
        guard index < table.count, table[index] != 0 else { return nil }
        let size = 1 << Int(clusterBits)
        var bytes = try storage.read(at: HostOffset(table[index]), count: size, ofLength: fileLength)
        if bytes.count < size { bytes += [UInt8](repeating: 0, count: size - bytes.count) }
        return bytes
    }

    /// What the image says of a cluster; 0 where it says nothing.
    mutating func count(of cluster: UInt64) throws(ImageError) -> UInt64 {
        guard let index = Int(exactly: cluster >> blockBits), index < table.count, table[index] != 0 else { return 0 }
        if hot.index != index {
            if let known = cache[index] {
                hot = (index, known)
            } else {
                hot = (index, try block(index) ?? [])
                if cache.count >= cacheLimit { cache.removeAll(keepingCapacity: true) }
                cache[index] = hot.block
            }
        }
        return RefcountBlock.load(hot.block, Int(truncatingIfNeeded: cluster & ((1 << blockBits) - 1)), order: order)
    }
}

/// The big-endian words of a table.
func tableWords(_ bytes: [UInt8]) -> [UInt64] {
    unsafe bytes.withUnsafeBytes { raw in
        (0..<(raw.count / 8)).map {
            UInt64(bigEndian: unsafe raw.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self))
        }
    }
}
