// The steps of changing a disk's size, on any storage, so that crash tests take the very steps that files do. The
// header gets the new size last: until then the disk has its old one, and nothing of it has moved.

public import DiskTypes

/// Changes the size of an image's disk. The caller has the image to itself.
public enum ImageResize {
    /// Refuses what cannot be done. Changes nothing.
    public static func judge(_ image: QCOW2Image, to newSize: UInt64) throws(ImageError) {
        let header = image.header
        try image.requireReadable()
        try image.requireWritable()
        guard newSize & 511 == 0 else { throw .unsupported("the new size must be a multiple of 512") }
        guard newSize <= Limits.virtualSize, header.l1EntriesNeeded(for: newSize) * 8 <= Limits.l1Bytes else {
            throw .unsupported(
                "a disk of \(newSize) bytes needs a larger L1 table than the format has",
                advice: "clusters of \(header.clusterSize) bytes are too small for it")
        }
        // Their snapshots do not say what size they had.
        guard header.version >= 3 || header.snapshotCount == 0 else {
            throw .unsupported("a version 2 image that has snapshots cannot be resized")
        }
        if case .success(let list) = image.snapshots, let short = list.first(where: { !$0.isComplete }) {
            throw .unsupported(
                "the snapshot \"\(printable(short.name))\" does not say how large its disk is",
                advice: "complete the snapshot table first with qblk check -r all")
        }
        guard header.autoclear.contains(.bitmaps), image.extensions.bitmaps != nil else { return }
        throw .unsupported(
            "the image has bitmaps, which are for a disk of its size",
            advice: "remove them first (qemu-img bitmap --remove), or use qemu-img resize")
    }

    /// Gives the image an L1 table with room for `newSize` bytes, if it lacks it. The disk stays as it is.
    ///
    /// 1. The new table, a copy with empty entries behind, into free clusters; their counts. A sync: leaks if it ends here.
    /// 2. Its place and its length into the header, in one write inside one sector. A sync.
    /// 3. The old table's clusters become free.
    public static func growTables(_ storage: some ResizableStorage, to newSize: UInt64) throws(ImageError) {
        let image = try QCOW2Image(reading: storage)
        let header = image.header
        let needed = header.l1EntriesNeeded(for: newSize)
        guard needed > UInt64(header.l1Entries) else { return }
        let writer = try open(image, storage, nil as MemoryStorage?, hasBacking: false)
        let clusters = (needed * 8 + header.clusterSize - 1) >> UInt64(header.clusterBits)
        let place = try writer.allocateRow(clusters)
        var table = try storage.readAll(at: header.l1Offset, count: Int(header.l1Entries) * 8, what: "the L1 table")
        table += [UInt8](repeating: 0, count: Int(clusters << UInt64(header.clusterBits)) - table.count)
        try storage.write(at: place, table)
        let freed = try writer.writeBack()
        try storage.write(at: HostOffset(36), bigEndian(UInt32(needed)) + bigEndian(place.bytes))
        try storage.sync()
        try writer.release(freed, discards: true)
        try writer.freeTable(header.l1Offset, bytes: UInt64(header.l1Entries) * 8)
        try writer.flushAndFree()
        try writer.plan.trim(storage, startLength: image.header.clusterSize)
    }

    /// Makes all that lies behind the disk's end, up to `newSize` bytes, read as zeros, before it becomes part of the disk:
    /// an earlier life of the image may have left something there. From the next whole cluster on; what lies before it
    /// is data, and the caller's. `hidesBacking`: what lies below has bytes there.
    public static func clearBehind(
        _ storage: some ResizableStorage, data: (some ImageStorage)?, to newSize: UInt64, hidesBacking: Bool
    ) throws(ImageError) {
        let (writer, start, end) = try openBehind(storage, data, newSize, hasBacking: hidesBacking)
        guard start < end else { return }
        guard !hidesBacking || writer.plan.header.version >= 3 else {
            throw .unsupported(
                "the backing file has data behind the disk's end, and a version 2 image has no entries that hide it")
        }
        try writer.zeroRange(start, end, hidesBacking ? .unmap : .forget)
        try writer.flushAndFree()
        try writer.plan.trim(storage, startLength: 0)
    }

    /// Gives the clusters behind the disk's end, up to `newSize` bytes, their places. `give` makes a range of the file of
    /// the data zeros; it hears whether that is the image file's and was never written.
    public static func allocateBehind(
        _ storage: some ResizableStorage, data: (some ImageStorage)?, to newSize: UInt64,
        give: (HostOffset, UInt64, _ isFresh: Bool) throws(ImageError) -> Void
    ) throws(ImageError) {
        let (writer, start, end) = try openBehind(storage, data, newSize, hasBacking: false)
        guard start < end else { return }
        try writer.allocateRange(start, end, give: give)
        try writer.flushAndFree()
        try writer.plan.trim(storage, startLength: 0)
    }

    /// Takes all that lies behind `newSize` bytes away from the disk. It still has its size: where this ends early, its end
    /// is lost, and nothing else.
    public static func giveUpBehind(
        _ storage: some ResizableStorage, data: (some ImageStorage)?, _ newSize: UInt64
    ) throws(ImageError) {
        let image = try QCOW2Image(reading: storage)
        let writer = try open(image, storage, data, hasBacking: false)
        try writer.zeroRange(
            roundedUp(newSize, image.header), roundedUp(image.header.diskSize, image.header), .forget)
        try writer.flushAndFree(discards: true)
        writer.dropTables(from: Int(image.header.l1EntriesNeeded(for: newSize)))
        try writer.flushAndFree(discards: true)
        try writer.cutFile()
    }

    /// Last of all, and only when everything else is on the disk: the new size.
    public static func setSize(_ storage: some ImageStorage, to newSize: UInt64) throws(ImageError) {
        try storage.sync()
        try storage.write(at: HostOffset(24), bigEndian(newSize))
        try storage.sync()
    }

    // MARK: parts

    private static func open<Storage: ResizableStorage, DataFile: ImageStorage>(
        _ image: QCOW2Image, _ storage: Storage, _ data: DataFile?, hasBacking: Bool
    ) throws(ImageError) -> OfflineWriter<Storage, DataFile> {
        let map = try QCOW2Map(
            image, source: storage, dataLength: image.header.hasExternalData ? .max >> 1 : nil,
            cacheLimit: 4 << 20, forWriting: true)
        let plan = try QCOW2Writer(image, map: map, storage: storage, hasBacking: hasBacking)
        if !plan.isPrepared { try plan.satisfy(.preparation, storage) }
        return OfflineWriter(plan: plan, storage: storage, data: data)
    }

    /// For the whole clusters behind the disk's end: from where to where.
    private static func openBehind<Storage: ResizableStorage, DataFile: ImageStorage>(
        _ storage: Storage, _ data: DataFile?, _ newSize: UInt64, hasBacking: Bool
    ) throws(ImageError) -> (writer: OfflineWriter<Storage, DataFile>, start: UInt64, end: UInt64) {
        let old = try QCOW2Image(reading: storage).header
        let end = roundedUp(newSize, old)
        let image = try QCOW2Image(reading: storage, size: max(end, old.size))
        return (try open(image, storage, data, hasBacking: hasBacking), roundedUp(old.diskSize, old), end)
    }

    private static func roundedUp(_ bytes: UInt64, _ header: Header) -> UInt64 {
        min((bytes + header.clusterSize - 1) & ~(header.clusterSize - 1), Limits.virtualSize & ~511)
    }
}
