// The areas of an image's own tables that never move while it is open. A data cluster inside one is damage, or an
// attack; every mapping entry is held against them when its table is loaded.

import DiskTypes

/// Host ranges that no mapping entry may point into: header, L1, refcount table, snapshot table.
struct MetadataAreas: Sendable {
    private let ranges: [Range<UInt64>]

    /// None at all: a check finds overlaps by counting.
    static let none = MetadataAreas(ranges: [])
    private init(ranges: [Range<UInt64>]) { self.ranges = ranges }

    init(_ header: Header, l1Offset: HostOffset, l1Bytes: UInt64) {
        let cluster = header.clusterSize
        func area(_ start: HostOffset, _ bytes: UInt64) -> Range<UInt64> {
            start.bytes..<(start.bytes + (bytes + cluster - 1) & ~(cluster - 1))
        }
        var list = [0..<cluster, area(header.refcountTableOffset, UInt64(header.refcountTableClusters) * cluster)]
        list.append(area(header.l1Offset, UInt64(header.l1Entries) * 8))
        list.append(area(l1Offset, l1Bytes))
        if header.snapshotCount > 0 { list.append(area(header.snapshotsOffset, UInt64(header.snapshotCount) * 40)) }
        ranges = list.filter { !$0.isEmpty }
    }

    func contains(_ host: UInt64) -> Bool {
        for range in ranges where range.contains(host) { return true }
        return false
    }
}
