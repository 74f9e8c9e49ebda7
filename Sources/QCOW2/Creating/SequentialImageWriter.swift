// The layout of an image that many threads write from start to end: the one place that says what goes where. Pieces of the
// guest's disk come in increasing order, each gets its place in the file, and the tables that are full by then come
// along. Nothing here reads or writes, and what it holds does not grow with the disk (but for the L1 and
// refcount tables, which the format bounds).
//
//     header | data, L2 tables and refcount blocks as they fill | L1 | refcount blocks | refcount table

public import DiskTypes

/// What becomes of one cluster of the guest's disk.
public enum ClusterEncoding: Equatable, Sendable {
    /// Stays unallocated.
    case skip
    /// Reads as zeros whatever the backing file has.
    case zero
    /// Its bytes, uncompressed.
    case plain
    /// A stream of so many bytes.
    case compressed(Int)
}

/// Where a piece's bytes go.
public struct ChunkPlacement: Sendable {
    /// The plain clusters, in their order, without gaps. In an external data file each is at its own guest offset.
    public var plain = HostOffset(0)
    /// The streams, in their order: each run takes the next `count` bytes of them. Runs of one piece do not touch.
    public var streams: [(host: HostOffset, count: Int)] = []
    /// Tables that are complete now; the caller writes them before the header.
    public var tables: [TableWrite] = []
}

/// What has to be written when all pieces have their place.
public struct FinishedImage: Sendable {
    /// Tables that were not complete before; to be written before the header.
    public let tables: [TableWrite]
    /// The bytes the file starts with; to be written when everything else is on the disk.
    public let header: [UInt8]
    /// How long the file has to be at least.
    public let fileLength: UInt64
}

/// Lays an image out piece by piece.
public struct SequentialImageWriter: Sendable {
    /// The image that is laid out.
    public let image: NewImage
    private var refcounts: RefcountWriter
    private var streams = StreamPacker()
    private var l1: [UInt64]
    /// The L2 table being filled, and which one it is.
    private var table: BigEndianTable?
    private var tableIndex: UInt64 = 0
    private var fullTables: [(index: UInt64, bytes: [UInt8])] = []

    /// Begins an image of which no piece is placed yet.
    public init(_ image: NewImage) {
        self.image = image
        refcounts = RefcountWriter(image)
        l1 = [UInt64](repeating: 0, count: Int(image.l1Entries))
        _ = refcounts.append(1)
    }

    /// Places the clusters from `guest` on, a multiple of the cluster size that lies behind all earlier pieces.
    public mutating func place(_ guest: GuestOffset, _ fates: [ClusterEncoding]) throws(ImageError) -> ChunkPlacement {
        var placement = ChunkPlacement()
        // Streams first, then the plain clusters in one run, then the tables: each in one write.
        let words = try placeStreams(fates, &placement)
        let count = UInt64(fates.lazy.filter { $0 == .plain }.count)
        var host = image.hasExternalData || count == 0 ? 0 : refcounts.append(count) << image.clusterBits
        guard refcounts.end << image.clusterBits < Limits.hostOffset else {
            throw .unsupported("the file gets longer than the format allows")
        }
        placement.plain = HostOffset(host)
        var streamIndex = 0
        for (cluster, fate) in zip((guest.bytes >> image.clusterBits)..., fates) {
            switch fate {
            case .skip: continue
            case .zero: try enterZero(cluster)
            case .compressed:
                try enter(cluster, word: words[streamIndex], bitmap: 0)
                streamIndex += 1
            case .plain:
                if image.hasExternalData { host = cluster << image.clusterBits }
                try enter(cluster, word: MappingWord.copied | host, bitmap: 0xffff_ffff)
                host += image.clusterSize
            }
        }
        placement.tables = takeFullTables()
        return placement
    }

    /// Gives the streams their places; their L2 entries.
    private mutating func placeStreams(
        _ fates: [ClusterEncoding], _ placement: inout ChunkPlacement
    ) throws(ImageError) -> [UInt64] {
        var words: [UInt64] = []
        for case .compressed(let count) in fates {
            let host = streams.place(UInt64(count), image, &refcounts)
            if let last = placement.streams.last, last.host + UInt64(last.count) == host {
                placement.streams[placement.streams.count - 1].count += count
            } else {
                placement.streams.append((host, count))
            }
            words.append(try compressedWord(host, count))
        }
        return words
    }

    private mutating func enterZero(_ cluster: UInt64) throws(ImageError) {
        if image.options.extendedL2 { return try enter(cluster, word: 0, bitmap: 0xffff_ffff << 32) }
        try enter(cluster, word: MappingWord.zeroFlag, bitmap: 0)
    }

    private mutating func enter(_ cluster: UInt64, word: UInt64, bitmap: UInt64) throws(ImageError) {
        let index = cluster / image.l2Entries
        if table == nil || index != tableIndex {
            guard index < UInt64(l1.count), table == nil || index > tableIndex else {
                throw ImageError(.system, "a cluster came out of order")
            }
            closeTable()
            table = BigEndianTable(count: Int(image.clusterSize))
            tableIndex = index
        }
        let place = Int(cluster % image.l2Entries * image.l2EntryBytes)
        table?.put(word, at: place)
        if image.options.extendedL2 { table?.put(bitmap, at: place + 8) }
    }

    private mutating func closeTable() {
        guard let full = table else { return }
        fullTables.append((tableIndex, full.bytes))
        table = nil
    }

    /// Gives the full L2 tables their places, side by side, and takes out the refcount blocks that are settled.
    private mutating func takeFullTables() -> [TableWrite] {
        var writes: [TableWrite] = []
        if !fullTables.isEmpty {
            var host = refcounts.append(UInt64(fullTables.count)) << image.clusterBits
            for (index, bytes) in fullTables {
                writes.append(TableWrite(host: HostOffset(host), bytes: bytes))
                l1[Int(index)] = MappingWord.copied | host
                host += image.clusterSize
            }
            fullTables.removeAll()
        }
        let settled = min(refcounts.end, streams.openCluster ?? .max)
        return writes + refcounts.takeBlocks(below: settled)
    }

    /// The rest: what is not full yet, and the tables of tables.
    public mutating func finish() throws(ImageError) -> FinishedImage {
        closeTable()
        streams.close()
        var writes = takeFullTables()
        var places = TablePlaces(refcountTable: HostOffset(0), refcountTableClusters: 0)
        if !l1.isEmpty {
            places.l1 = HostOffset(refcounts.append(image.clusters(image.l1Entries * 8)) << image.clusterBits)
            writes.append(TableWrite(host: places.l1, bytes: BigEndianTable.words(l1, count: l1.count)))
        }
        writes += refcounts.takeBlocks(below: refcounts.end)
        let rest = try refcounts.finish()
        writes += rest.writes
        places.refcountTable = rest.table
        places.refcountTableClusters = rest.clusters
        return FinishedImage(
            tables: writes, header: try HeaderWriter.bytes(image, places),
            fileLength: refcounts.end << image.clusterBits)
    }

    /// A compressed entry: the stream's first byte, and how many sectors it touches besides the first.
    private func compressedWord(_ host: HostOffset, _ count: Int) throws(ImageError) -> UInt64 {
        let bits = 62 - (image.clusterBits - 8)
        guard host.bytes + UInt64(count) < 1 << bits else {
            throw .unsupported(
                "compressed clusters cannot lie behind \(hex(1 << bits))", advice: "try a smaller cluster size")
        }
        let sectors = (host.bytes + UInt64(count) - 1) >> 9 - host.bytes >> 9
        return MappingWord.compressed | sectors << bits | host.bytes
    }
}

/// Packs compressed streams byte by byte into clusters that they share.
private struct StreamPacker: Sendable {
    private var next: UInt64 = 0
    /// The end of the cluster that is being filled; 0 when there is none.
    private var end: UInt64 = 0
    /// Streams that touch it.
    private var count: UInt64 = 0
    private(set) var openCluster: UInt64?

    /// The place of a stream shorter than a cluster. It may go on into the cluster behind, if nothing else is there.
    mutating func place(_ length: UInt64, _ image: NewImage, _ refcounts: inout RefcountWriter) -> HostOffset {
        let room = end - next
        let isLast = refcounts.end << image.clusterBits == end
        guard let open = openCluster, room > 0, count < image.refcountLimit, room >= length || isLast else {
            return start(length, image, &refcounts)
        }
        let place = next
        count += 1
        refcounts.set(open, count)
        if room >= length {
            next += length
        } else {
            take(refcounts.append(1), used: length - room, image)
        }
        return HostOffset(place)
    }

    private mutating func start(
        _ length: UInt64, _ image: NewImage, _ refcounts: inout RefcountWriter
    ) -> HostOffset {
        let cluster = refcounts.append(1)
        take(cluster, used: length, image)
        return HostOffset(cluster << image.clusterBits)
    }

    private mutating func take(_ cluster: UInt64, used: UInt64, _ image: NewImage) {
        openCluster = cluster
        next = cluster << image.clusterBits + used
        end = (cluster + 1) << image.clusterBits
        count = 1
    }

    /// The open cluster gets no more.
    mutating func close() { self = StreamPacker() }
}
