// The options of an image that is made, judged once with QEMU's rules. What `create` and `convert` are asked for
// becomes a `NewImage`, which every reader can take, or an error.

public import DiskTypes

/// What space a new image takes before anybody writes to it.
public enum PreallocationMode: String, Sendable, CaseIterable {
    case off
    /// All tables, and every cluster mapped; the data is a hole.
    case metadata
    /// The same, and the file system keeps the space.
    case falloc
    /// The same, and zeros are written.
    case full
}

/// The options of a new image, with QEMU's defaults.
public struct NewImageOptions: Sendable {
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    public var version: UInt32 = 3
    /// Bytes of a cluster, a power of two.
    public var clusterSize: UInt64 = 65536
    /// Bits of a refcount: 1, 2, 4 ... 64.
    public var refcountBits: UInt64 = 16
    /// The compatible feature "lazy refcounts": a writer may leave them behind the mapping, and say so.
    public var lazyRefcounts = false
    /// L2 entries of 16 bytes, with 32 subclusters for each cluster.
    public var extendedL2 = false
    /// How compressed clusters will be compressed.
    public var compression: CompressionMethod = .deflate
    /// What space the image takes before the first write.
    public var preallocation: PreallocationMode = .off
    /// The backing file's name, byte for byte as the header gets it; nil: none.
    public var backingName: FileName?
    /// The backing file's format, as QEMU calls it.
    public var backingFormat: String?
    /// The external data file's name; nil: data is in the image itself.
    public var dataFile: FileName?
    /// The data file is to read as the guest's disk does (data_file_raw).
    public var dataFileIsRaw = false

    /// QEMU's defaults.
    public init() {}
}

/// A new image that can exist: its options, its size, and what follows from both.
public struct NewImage: Sendable {
    /// What was asked for.
    public let options: NewImageOptions
    /// Bytes of the guest's disk, in whole sectors.
    public let size: UInt64
    /// Bytes of a cluster: 2 to this power.
    public let clusterBits: UInt64
    /// Bits of a refcount: 2 to this power.
    public let refcountOrder: UInt64

    /// Judges the options and the size in bytes by QEMU's rules. Throws `.unsupported` for an image that cannot exist.
    public init(_ options: NewImageOptions, size: UInt64) throws(ImageError) {
        guard options.clusterSize.nonzeroBitCount == 1,
            let bits = UInt32(exactly: options.clusterSize.trailingZeroBitCount), Limits.clusterBits.contains(bits)
        else { throw .unsupported("cluster size must be a power of two between 512 and 2048k") }
        guard options.refcountBits.nonzeroBitCount == 1, options.refcountBits <= 64 else {
            throw .unsupported("refcount width must be a power of two and may not exceed 64 bits")
        }
        guard size <= Limits.virtualSize - 511 else { throw Self.tooLarge }
        self.options = options
        self.size = (size + 511) & ~511
        clusterBits = UInt64(bits)
        refcountOrder = UInt64(options.refcountBits.trailingZeroBitCount)
        try checkVersion()
        try checkCombinations()
        guard l1Entries * 8 <= Limits.l1Bytes else { throw Self.tooLarge }
    }

    private static let tooLarge = ImageError.unsupported(
        "the image size is too large for the format", advice: "try a larger cluster size")

    private func checkVersion() throws(ImageError) {
        guard options.version != 3 else { return }
        guard options.version == 2 else { throw .unsupported("qcow2 version \(options.version) is not known") }
        let newer: [(Bool, String)] = [
            (options.refcountBits != 16, "refcount widths other than 16 bits"),
            (options.lazyRefcounts, "lazy refcounts"),
            (options.extendedL2, "extended L2 entries"),
            (options.compression != .deflate, "compression types other than zlib"),
            (options.dataFile != nil, "external data files"),
        ]
        for (wanted, what) in newer where wanted {
            throw .unsupported("\(what) need compatibility level 1.1", advice: "say compat=1.1")
        }
    }

    private func checkCombinations() throws(ImageError) {
        if options.extendedL2, clusterBits < UInt64(Limits.clusterBitsForSubclusters) {
            throw .unsupported("extended L2 entries need clusters of at least 16384 bytes")
        }
        if options.dataFileIsRaw {
            guard options.dataFile != nil else { throw .unsupported("data_file_raw needs data_file") }
            guard options.backingName == nil else {
                throw .unsupported("a backing file and data_file_raw exclude each other")
            }
        }
        if options.backingName != nil, isPreallocated, !options.extendedL2 {
            throw .unsupported(
                "a backing file and preallocation exclude each other", advice: "extended_l2=on makes it possible")
        }
        guard options.backingFormat?.utf8.count ?? 0 <= 15 else {
            throw .unsupported("the backing format's name is too long")
        }
        guard UInt64(options.backingName?.bytes.count ?? 0) <= UInt64(Limits.backingNameBytes) else {
            throw .unsupported("the backing file name is longer than \(Limits.backingNameBytes) bytes")
        }
    }

    /// Bytes of a cluster.
    public var clusterSize: UInt64 { 1 << clusterBits }
    /// All clusters are mapped from the start. A raw data file must hold zeros where the guest reads them, so it is, too.
    public var isPreallocated: Bool { options.preallocation != .off || options.dataFileIsRaw }
    /// Data is in a file of its own.
    public var hasExternalData: Bool { options.dataFile != nil }
    /// Clusters of the guest's disk, the last one perhaps not whole.
    public var guestClusters: UInt64 { clusters(size) }
    /// Bytes of an L2 entry: 8, or 16 where it is extended.
    public var l2EntryBytes: UInt64 { options.extendedL2 ? 16 : 8 }
    /// Entries of one L2 table.
    public var l2Entries: UInt64 { clusterSize / l2EntryBytes }
    /// Entries of the L1 table: one for each L2 table that the disk needs.
    public var l1Entries: UInt64 { (guestClusters + l2Entries - 1) / l2Entries }
    /// Refcounts in one block.
    public var refcountsPerBlock: UInt64 { (clusterSize * 8) >> refcountOrder }
    /// The largest refcount there can be.
    public var refcountLimit: UInt64 { refcountOrder == 6 ? .max : (1 << (1 << refcountOrder)) - 1 }

    /// How many clusters `bytes` fill. Sizes are below 2^63, so nothing overflows.
    func clusters(_ bytes: UInt64) -> UInt64 { (bytes + clusterSize - 1) >> clusterBits }
}

/// Bytes for one place of the file.
public struct TableWrite: Sendable {
    /// Where they go.
    public let host: HostOffset
    /// The bytes as they are in the file.
    public let bytes: [UInt8]
}
