// Checks and repairs are tested on images whose every cluster is known: small ones, made here with right refcounts,
// in which a test then breaks one thing.

import DiskTypes

@testable import QCOW2

/// An image of 512-byte clusters with a right refcount structure.
///
/// Clusters: 0 header, 1 refcount table, 2 and 3 refcount blocks, 4 L1 table, 5 and 6 L2 tables, then data, `data` clusters
/// in either table's first entries.
struct CountedImage {
    static let cluster = 512
    static let table = 1
    static let l1 = 4
    static let tables = [5, 6]
    static let firstData = 7

    var image: ImageBytes
    let order: UInt32
    let data: Int

    init(order: UInt32 = 4, version: UInt32 = 3, data: Int = 8) {
        self.order = order
        self.data = data
        image = ImageBytes(version: version, size: UInt64(2 * 64 * Self.cluster))
        if version >= 3 { image.put(order, at: 96) }
        image.put(UInt64(Self.l1 * Self.cluster), at: 40)
        let perBlock = (Self.cluster * 8) >> Int(order)
        let count = Self.firstData + 2 * data
        // The blocks are two where one is too small: 64-bit counters count 64 clusters.
        for block in 0..<2 where block * perBlock < max(count, perBlock + 1) {
            image.put(UInt64((2 + block) * Self.cluster), at: Self.table * Self.cluster + block * 8)
        }
        image.pad(to: count * Self.cluster)
        for (index, table) in Self.tables.enumerated() {
            image.put(1 << 63 | UInt64(table * Self.cluster), at: Self.l1 * Self.cluster + index * 8)
            for entry in 0..<data { setEntry(index, entry, 1 << 63 | UInt64(host(index, entry) * Self.cluster)) }
        }
        for cluster in 0..<count { setCount(1, of: cluster) }
    }

    /// The cluster of a data entry.
    func host(_ table: Int, _ entry: Int) -> Int { Self.firstData + table * data + entry }

    mutating func setEntry(_ table: Int, _ entry: Int, _ word: UInt64) {
        image.put(word, at: Self.tables[table] * Self.cluster + entry * 8)
    }
    func entry(_ table: Int, _ entry: Int) -> UInt64 {
        let at = Self.tables[table] * Self.cluster + entry * 8
        return image.bytes[at..<at + 8].reduce(0) { $0 << 8 | UInt64($1) }
    }

    mutating func setCount(_ count: UInt64, of cluster: Int) {
        let perBlock = (Self.cluster * 8) >> Int(order)
        let at = (2 + cluster / perBlock) * Self.cluster
        var block = Array(image.bytes[at..<at + Self.cluster])
        RefcountBlock.store(count, into: &block, cluster % perBlock, order: order)
        image.put(block, at: at)
    }

    /// Appends a cluster of zeros that is counted once; its number.
    mutating func append() -> Int {
        let cluster = image.bytes.count / Self.cluster
        image.pad(to: (cluster + 1) * Self.cluster)
        setCount(1, of: cluster)
        return cluster
    }

    var storage: MemoryStorage { MemoryStorage(image.bytes, recording: true, limit: 16 << 20) }

    func check() throws -> CheckReport { try ImageCheck.check(image.source) }
    func repaired(_ mode: RepairMode = .all) throws -> (CheckReport, MemoryStorage) {
        let storage = storage
        return (try ImageCheck.repair(storage, mode), storage)
    }
}

/// What the guest's entries say, flags aside: what no repair may change.
func guestView(_ bytes: [UInt8]) -> [UInt64] {
    CountedImage.tables.flatMap { table -> [UInt64] in
        let start = table * CountedImage.cluster
        guard bytes.count >= start + CountedImage.cluster else { return [] }
        return tableWords(Array(bytes[start..<start + CountedImage.cluster])).map { $0 & ~MappingWord.copied }
    }
}
