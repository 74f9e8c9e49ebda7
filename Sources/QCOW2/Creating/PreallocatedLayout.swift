// The layout of an image that is made empty, or with every cluster mapped: it follows from the image's size alone. All
// tables come first, so the data is one run, and preallocated images have one extent.
//
//     header | refcount table | refcount blocks | L1 | L2 tables | data
//
// The last two are there only with preallocation; the data may be in a file of its own.

public import DiskTypes

/// Where everything is in an image without history.
public struct PreallocatedLayout: Sendable {
    /// The image that is laid out.
    public let image: NewImage
    let places: TablePlaces
    private let blocks: UInt64
    private let l1Clusters: UInt64
    private let l2Tables: UInt64
    /// Clusters of the file, the data included.
    private let clusters: UInt64
    /// Where the guest's first byte is: guest offset g is `dataStart` + g. Nil when nothing is mapped.
    public let dataStart: HostOffset?
    /// Where the data would start: behind all tables.
    private let tablesEnd: UInt64

    /// Lays an image out. Throws when its tables take more clusters than the format has.
    public init(_ image: NewImage) throws(ImageError) {
        self.image = image
        let mapped = image.isPreallocated
        l1Clusters = image.clusters(image.l1Entries * 8)
        l2Tables = mapped ? image.l1Entries : 0
        let others = 1 + l1Clusters + l2Tables + (mapped && !image.hasExternalData ? image.guestClusters : 0)
        var (blocks, table, total): (UInt64, UInt64, UInt64) = (1, 1, 0)
        while true {
            total = others + blocks + table
            let needed = (total + image.refcountsPerBlock - 1) / image.refcountsPerBlock
            let clusters = image.clusters(needed * 8)
            if needed == blocks, clusters == table { break }
            (blocks, table) = (needed, clusters)
        }
        guard table << image.clusterBits <= Limits.refcountTableBytes else {
            throw .unsupported(
                "the image needs a larger refcount table than the format has", advice: "try a larger cluster size")
        }
        self.blocks = blocks
        clusters = total
        let l1 = image.l1Entries == 0 ? 0 : (1 + table + blocks) << image.clusterBits
        places = TablePlaces(
            l1: HostOffset(l1), refcountTable: HostOffset(image.clusterSize), refcountTableClusters: table)
        tablesEnd = (1 + table + blocks + l1Clusters + l2Tables) << image.clusterBits
        dataStart = !mapped ? nil : image.hasExternalData ? HostOffset(0) : HostOffset(tablesEnd)
    }

    /// The bytes the file starts with. To be written last: without them there is no image.
    public func header() throws(ImageError) -> [UInt8] { try HeaderWriter.bytes(image, places) }

    /// How long the file is once the tables are written: up to the end of the data, if it is in here.
    public var fileLength: UInt64 {
        dataStart != nil && !image.hasExternalData ? tablesEnd + dataLength : tablesEnd
    }

    /// Bytes of the data from `dataStart` on: the disk's in a file of their own, else whole clusters, so that a disk that
    /// grows finds its last cluster there.
    public var dataLength: UInt64 {
        image.hasExternalData ? image.size : image.guestClusters << image.clusterBits
    }

    /// Everything but the header and the data, in the order of the file and in pieces of bounded size.
    public func writeTables(_ write: (TableWrite) throws(ImageError) -> Void) throws(ImageError) {
        let cluster = image.clusterSize
        let firstBlock = 1 + places.refcountTableClusters
        let table = BigEndianTable.words((0..<blocks).map { (firstBlock + $0) * cluster }, count: Int(blocks))
        try write(TableWrite(host: places.refcountTable, bytes: table))
        for block in 0..<blocks {
            let counted = min(image.refcountsPerBlock, clusters - block * image.refcountsPerBlock)
            let place = HostOffset((firstBlock + block) * cluster)
            try write(TableWrite(host: place, bytes: Self.ones(counted, order: image.refcountOrder)))
        }
        guard image.l1Entries > 0 else { return }
        let firstL2 = places.l1.bytes + l1Clusters * cluster
        let l1 = (0..<l2Tables).map { MappingWord.copied | firstL2 + $0 * cluster }
        try write(TableWrite(host: places.l1, bytes: BigEndianTable.words(l1, count: Int(image.l1Entries))))
        for index in 0..<l2Tables {
            try write(TableWrite(host: HostOffset(firstL2 + index * cluster), bytes: l2Table(index)))
        }
    }

    private func l2Table(_ index: UInt64) -> [UInt8] {
        let start = index * image.l2Entries
        let count = min(image.l2Entries, image.guestClusters - start)
        let data = dataStart?.bytes ?? 0
        var table = BigEndianTable(count: Int(image.clusterSize))
        // With a backing file its bytes have to show through: the space is there, no subcluster is.
        let bitmap: UInt64 = image.options.backingName == nil ? 0xffff_ffff : 0
        for i in 0..<count {
            let word = MappingWord.copied | data + (start + i) << image.clusterBits
            table.put(word, at: Int(i * image.l2EntryBytes))
            if image.options.extendedL2 { table.put(bitmap, at: Int(i * 16 + 8)) }
        }
        return table.bytes
    }

    /// `count` refcounts of 1, 2^order bits each.
    static func ones(_ count: UInt64, order: UInt64) -> [UInt8] {
        guard order < 3 else {
            let width = 1 << Int(order - 3)
            return (0..<Int(count) * width).map { $0 % width == width - 1 ? 1 : 0 }
        }
        let perByte = UInt64(8) >> order
        let full: UInt8 = [0xff, 0x55, 0x11][Int(order)]
        var bytes = [UInt8](repeating: full, count: Int((count + perByte - 1) / perByte))
        let rest = count % perByte
        if rest > 0 { bytes[bytes.count - 1] = full & UInt8((1 << (rest << order)) - 1) }
        return bytes
    }
}
