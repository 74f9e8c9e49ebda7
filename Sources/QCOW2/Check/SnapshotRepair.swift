// Completes the snapshot table of an image. Version 3 wants every entry to say how large the disk was; without that
// the snapshot's size changes when the image is resized. The entries get longer, so the table is written anew.

import DiskTypes

extension ImageCheck {
    /// Writes the snapshot table with complete entries. Only for an image whose refcounts are right.
    ///
    /// 1. The new table into free clusters, and their counts. A sync: leaks if it ends here.
    /// 2. Its place into the header, in one write inside one sector. A sync.
    /// 3. The old table's clusters become free.
    static func completeSnapshots(_ storage: some ResizableStorage) throws(ImageError) {
        let image = try QCOW2Image(reading: storage)
        let header = image.header
        let old = try SnapshotTable.readWithSize(header, from: storage).bytes
        var table = try SnapshotTable.completed(header, from: storage)
        guard UInt64(table.count) <= Limits.snapshotTableBytes else {
            throw .malformed("the snapshot table is too long to be completed", at: header.snapshotsOffset)
        }
        let map = try QCOW2Map(
            image, source: storage, dataLength: header.hasExternalData ? .max >> 1 : nil, cacheLimit: 4 << 20,
            forWriting: true)
        let writer = OfflineWriter(
            plan: try QCOW2Writer(image, map: map, storage: storage, hasBacking: true), storage: storage,
            data: nil as MemoryStorage?)
        let clusters = (UInt64(table.count) + header.clusterSize - 1) >> UInt64(header.clusterBits)
        let place = try writer.allocateRow(clusters)
        table += [UInt8](repeating: 0, count: Int(clusters << UInt64(header.clusterBits)) - table.count)
        try storage.write(at: place, table)
        let freed = try writer.writeBack()
        try storage.write(at: HostOffset(64), bigEndian(place.bytes))
        try storage.sync()
        try writer.release(freed, discards: true)
        try writer.freeTable(header.snapshotsOffset, bytes: old)
        try writer.flushAndFree()
    }
}
