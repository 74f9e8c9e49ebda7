// The list of all clusters that hold an image's tables, made before the first write. Such a cluster is never given to
// data, whatever its refcount says: that is how one damaged refcount ruins a whole image.

import DiskTypes

/// Clusters that no entry of an image that is written may name.
struct ForbiddenClusters: Sendable {
    /// They hold tables.
    var tables: Set<UInt64> = []
    /// They were cut off.
    var missing: Set<UInt64> = []
}

/// The clusters of an image's tables, but those of its snapshots' L2 tables.
struct MetadataClusters {
    private(set) var set: Set<UInt64> = []
    /// A hostile image could claim billions.
    private(set) var isTooMany = false
    private static let limit: UInt64 = 1 << 22
    private let bits: UInt64

    private init(_ header: Header) {
        bits = UInt64(header.clusterBits)
        add(HostOffset(0), header.clusterSize)
        add(header.l1Offset, UInt64(header.l1Entries) * 8)
        add(header.refcountTableOffset, UInt64(header.refcountTableClusters) * header.clusterSize)
        if header.snapshotCount > 0 { add(header.snapshotsOffset, UInt64(header.snapshotCount) * 40) }
    }

    /// Lists the clusters of an image's tables and those that were cut off, before the first write. `table`: its refcount
    /// table. Throws when two tables lie in the same place, or when there are too many.
    static func list(
        _ image: QCOW2Image, _ map: QCOW2Map, _ table: [UInt64], _ storage: some ResizableStorage
    ) throws(ImageError) -> ForbiddenClusters {
        let header = image.header
        let missing = try Refcounts.clustersPastTheEnd(header, table, storage)
        var clusters = MetadataClusters(header)
        for snapshot in (try? image.snapshots.get()) ?? [] {
            // No table that QEMU opens is larger: a hostile entry would cost memory for clusters that nothing refers to.
            guard UInt64(snapshot.l1Entries) * 8 <= Limits.l1Bytes else {
                throw .malformed(
                    "a snapshot's L1 table is larger than the format allows", at: header.snapshotsOffset,
                    advice: "open it read-only (-r), or repair it with qblk check -r all")
            }
            clusters.add(snapshot.l1Offset, UInt64(snapshot.l1Entries) * 8)
        }
        for bitmap in (try? image.bitmaps.get()) ?? [] {
            clusters.add(bitmap.table, UInt64(bitmap.tableEntries) * 8)
        }
        // From here on what a writer changes: it may be nothing else at the same time.
        if let directory = image.extensions.bitmaps {
            try clusters.claim(directory.directory, directory.directoryBytes)
        }
        for entry in table where entry != 0 { try clusters.claim(HostOffset(entry), header.clusterSize) }
        try clusters.claimL2(map)
        try clusters.addCutOff(header, map, storage)
        guard !clusters.isTooMany else {
            throw .unsupported(
                "the image's tables take more clusters than a writer can keep apart", advice: "open it read-only (-r)")
        }
        return ForbiddenClusters(tables: clusters.set, missing: missing)
    }

    /// Clusters of a table that is written: no other may have one of them.
    private mutating func claim(_ start: HostOffset, _ bytes: UInt64) throws(ImageError) {
        guard bytes > 0, !isTooMany else { return }
        let (end, overflow) = start.bytes.addingReportingOverflow(bytes - 1)
        guard !overflow, bytes >> bits < Self.limit else { return isTooMany = true }
        for cluster in start.bytes >> bits...end >> bits where set.contains(cluster) { throw Self.overlap(start) }
        add(start, bytes)
    }

    /// The active L2 tables. One that is not this image's alone may be named twice; it is never written.
    private mutating func claimL2(_ map: QCOW2Map) throws(ImageError) {
        var (shared, own): (Set<UInt64>, Set<UInt64>) = ([], [])
        for i in 0..<map.l1.count {
            let word = MappingWord(map.l1[i])
            guard word.offset != 0, !word.isDamaged else { continue }
            let cluster = word.offset >> bits
            let isOwn = word.raw & MappingWord.copied != 0
            guard !set.contains(cluster), !own.contains(cluster), !isOwn || !shared.contains(cluster) else {
                throw Self.overlap(HostOffset(word.offset))
            }
            if isOwn { own.insert(cluster) } else { shared.insert(cluster) }
            guard own.count + shared.count < Int(Self.limit) else { return isTooMany = true }
        }
        set.formUnion(own)
        set.formUnion(shared)
    }

    /// L2 tables past the end of the file: were data to come there when it grows, the next program that opens the image would
    /// take it for a table.
    private mutating func addCutOff(
        _ header: Header, _ map: QCOW2Map, _ storage: some ResizableStorage
    ) throws(ImageError) {
        guard (0..<map.l1.count).contains(where: { MappingWord(map.l1[$0]).isDamaged }) else { return }
        let bytes = BigEndianBytes(
            try storage.readAll(at: header.l1Offset, count: map.l1.count * 8, what: "the L1 table"))
        for i in 0..<map.l1.count where MappingWord(map.l1[i]).isDamaged {
            let offset = MappingWord(try bytes.u64(at: i * 8)).offset
            if offset >= storage.length { add(HostOffset(offset), 1 << bits) }
        }
    }

    private static func overlap(_ place: HostOffset) -> ImageError {
        .malformed(
            "two of the image's tables lie in the same place", at: place,
            advice: "open it read-only (-r), or repair it with qblk check -r all")
    }

    private mutating func add(_ start: HostOffset, _ bytes: UInt64) {
        guard bytes > 0 else { return }
        let (end, overflow) = start.bytes.addingReportingOverflow(bytes - 1)
        guard !overflow, bytes >> bits < Self.limit, set.count < Int(Self.limit) else { return isTooMany = true }
        for cluster in start.bytes >> bits...end >> bits { set.insert(cluster) }
    }
}
