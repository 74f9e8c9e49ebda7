// Where the bytes of one QCOW2 layer are, for any number of threads at once. L1 is in memory; L2 tables come in
// slices, by the caller's I/O, when a lookup names them.

public import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The map of an image's active state, or of one of its snapshots. Only a `QCOW2Writer` changes it.
public final class QCOW2Map: BlockMap {
    /// Bytes of the disk, in whole sectors.
    public let size: UInt64
    /// Bytes of a cluster.
    public let clusterSize: UInt64
    /// How compressed clusters are compressed.
    public let compression: CompressionMethod
    let rules: EntryValidator
    let clusterBits: UInt64
    /// Guest bytes one L2 table covers: 2 to this power. Likewise one slice of it.
    let coverageBits: UInt64
    let sliceCoverageBits: UInt64
    let sliceBytes: UInt64
    let subclusterBits: UInt64
    let l1: L1Table
    let cache: L2SliceCache
    /// Where the file ends that holds the tables, and the one that holds the data: writing moves it.
    let ends: FileEnds
    /// In an image that is written: clusters that no entry may name.
    let guarded = Mutex(ForbiddenClusters())

    /// `dataLength`: bytes of the external data file, nil where data is in the image itself.
    /// `cacheLimit`: bytes of L2 table to keep; what the whole image needs is enough.
    public init(
        _ image: QCOW2Image, snapshot: Snapshot? = nil, source: some ByteSource, dataLength: UInt64? = nil,
        cacheLimit: UInt64, forWriting: Bool = false
    ) throws(ImageError) {
        let header = image.header
        size = (snapshot?.diskSize ?? header.size) & ~511
        clusterSize = header.clusterSize
        clusterBits = UInt64(header.clusterBits)
        compression = header.compression
        coverageBits = header.l2CoverageBits
        subclusterBits = header.hasSubclusters ? UInt64(header.clusterBits) - 5 : UInt64(header.clusterBits)
        let l1Offset = snapshot?.l1Offset ?? header.l1Offset
        let needed = try Self.checkL1(header, snapshot, size: size, fileLength: source.length)
        rules = EntryValidator(
            clusterBits: UInt64(header.clusterBits), version: header.version, subclusters: header.hasSubclusters,
            external: header.hasExternalData, fileLength: source.length, dataLength: dataLength ?? source.length,
            areas: MetadataAreas(header, l1Offset: l1Offset, l1Bytes: needed * 8))
        ends = FileEnds(file: rules.fileLength, data: rules.dataLength)
        guard let l1 = L1Table(try Self.readL1(source, at: l1Offset, entries: needed, rules)) else {
            throw ImageError(.system, "there is not enough memory for the L1 table", number: ENOMEM)
        }
        self.l1 = l1
        sliceBytes = Self.sliceSize(clusterSize: header.clusterSize, l2Tables: needed)
        let entriesPerSlice = sliceBytes / header.l2EntryBytes
        sliceCoverageBits = UInt64(entriesPerSlice.trailingZeroBitCount) + UInt64(header.clusterBits)
        let slices = needed << (coverageBits - sliceCoverageBits)
        guard
            let cache = L2SliceCache(
                tables: Int(slices), wordsPerSlice: Int(sliceBytes / 8), byteLimit: cacheLimit,
                least: forWriting ? 8 : 2)
        else { throw ImageError(.system, "there is not enough memory for the L2 cache", number: ENOMEM) }
        self.cache = cache
    }

    /// Bytes of L2 table that map the whole image: what the cache could use at most.
    public static func cacheNeed(_ header: Header) -> UInt64 {
        header.l1EntriesNeeded(for: header.size) << UInt64(header.clusterBits)
    }

    private static func checkL1(
        _ header: Header, _ snapshot: Snapshot?, size: UInt64, fileLength: UInt64
    ) throws(ImageError) -> UInt64 {
        let needed = header.l1EntriesNeeded(for: size)
        guard let snapshot else { return needed }
        guard size <= Limits.virtualSize, UInt64(snapshot.l1Entries) * 8 <= Limits.l1Bytes,
            needed <= UInt64(snapshot.l1Entries)
        else { throw .malformed("the snapshot's L1 table does not fit its disk size", at: snapshot.l1Offset) }
        let at = snapshot.l1Offset.bytes
        guard
            needed == 0
                || (at & (header.clusterSize - 1) == 0 && at >= header.clusterSize && at < fileLength
                    && needed * 8 <= fileLength - at)
        else { throw .malformed("the snapshot's L1 table lies out of range", at: snapshot.l1Offset) }
        return needed
    }

    private static func readL1(
        _ source: some ByteSource, at start: HostOffset, entries: UInt64, _ rules: EntryValidator
    ) throws(ImageError) -> ContiguousArray<UInt64> {
        var table = ContiguousArray<UInt64>()
        table.reserveCapacity(Int(entries))
        while table.count < Int(entries) {
            let count = min(131_072, Int(entries) - table.count)
            let bytes = BigEndianBytes(
                try source.readAll(at: start + UInt64(table.count * 8), count: count * 8, what: "the L1 table"))
            for i in 0..<count { table.append(rules.validateL1(try bytes.u64(at: i * 8))) }
        }
        return table
    }

    /// 4 KiB, or a table where clusters are smaller; larger where the directory of slices would get out of hand.
    private static func sliceSize(clusterSize: UInt64, l2Tables: UInt64) -> UInt64 {
        var bytes = min(clusterSize, UInt64(Limits.l2SliceBytes))
        while bytes < clusterSize, l2Tables * (clusterSize / bytes) > 1 << 24 { bytes *= 2 }
        return bytes
    }

    /// Every range that has a table is damage from here on, what was looked up before excepted: see `QCOW2Writer.foundCut`.
    func loseFile() {
        ends.lose()
        let word = MappingWord(damage: .fileWasCut).raw
        for i in 0..<l1.count where l1[i] != 0 { l1.set(i, word) }
        // Lookups of whole entries ask the slices that are here and no L1 table.
        cache.fillAll(word)
    }

    /// See `BlockMap.supply`. Every entry is judged here, once; a broken one becomes a damage mark.
    public func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {
        let slice = Int(table.token & 0xffff_ffff)
        let generation = UInt32(truncatingIfNeeded: table.token >> 32)
        let rules = ends.current(rules, guarded: guarded.withLock { $0 })
        let guestStart = UInt64(slice) << sliceCoverageBits
        let l2Table = MappingWord(l1[Int(guestStart >> coverageBits)]).offset
        let available = bytes.count / 8
        let missing = MappingWord(damage: .tableUnreadable).raw
        func word(_ i: Int) -> UInt64 {
            UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: i * 8, as: UInt64.self))
        }
        let isShared = l1[Int(guestStart >> coverageBits)] & MappingWord.copied == 0
        guard rules.subclusters else {
            cache.insert(slice, generation: generation) { i in
                guard i < available else { return missing }
                let judged = rules.validateL2(word(i), guest: guestStart + UInt64(i) << clusterBits, table: l2Table)
                return isShared ? MappingWord(judged).ofSharedTable.raw : judged
            }
            return
        }
        cache.insert(slice, generation: generation) { i in
            let first = i & ~1
            guard first + 1 < available else { return i == first ? missing : 0 }
            let pair = rules.validateExtended(
                word(first), word(first + 1), guest: guestStart + UInt64(first / 2) << clusterBits, table: l2Table)
            guard i == first else { return pair.1 }
            return isShared ? MappingWord(pair.0).ofSharedTable.raw : pair.0
        }
    }
}
