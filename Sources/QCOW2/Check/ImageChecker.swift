// The walk through everything an image says, in the order that finds contradictions: what belongs to one user first,
// then L1 tables, then each L2 table once, the refcount structure last, for it can be made anew. It changes nothing,
// and nothing that an image claims makes it trap, loop or take memory without bound.

import DiskTypes

/// How often an L2 table is referred to.
struct TableUse {
    /// By all L1 tables, and by the active one.
    var weight: UInt64 = 0
    var activeUses: UInt64 = 0
    /// The first entry that names it, of the active L1 table if one does.
    var index: UInt64 = 0
    /// Bytes of the disk that this first entry belongs to: the active one or a snapshot's.
    var diskSize: UInt64 = 0
    /// Something else uses its cluster too: nothing in it may be changed.
    var isOverlapped = false
}

/// One check of one image. Used once, by one thread.
final class ImageChecker<Storage: ByteSource> {
    let storage: Storage
    let options: CheckOptions
    let header: Header
    let extensions: HeaderExtensions
    let rules: EntryValidator
    let fileLength: UInt64
    var report = CheckReport()
    var counts: ClusterCounts
    var stored: StoredRefcounts<Storage>
    var tables: [UInt64: TableUse] = [:]
    /// Clusters that entries point to but that were not counted: past the end of the file, or not aligned. Code that makes
    /// new clusters stays away from them.
    var dangling: [ClosedRange<UInt64>] = []
    var hasTooManyDangling = false
    /// References of the refcount table and its blocks, which a rebuild does without.
    var structure: [UInt64: UInt64] = [:]
    /// Refcounts differ from the references; COPIED flags are wrong.
    var hasWrongCounts = false
    var hasWrongFlags = false
    /// Entries of the snapshot table without the sizes that version 3 asks for.
    var incompleteSnapshots: UInt64 = 0
    /// The last cluster whose stored refcount is not 0, as far as clusters are in the file.
    var highestStored: UInt64?
    private var done: UInt64 = 0

    var clusterSize: UInt64 { header.clusterSize }
    var clusterBits: UInt64 { UInt64(header.clusterBits) }
    var fileClusters: UInt64 { fileLength >> clusterBits + (fileLength & (clusterSize - 1) == 0 ? 0 : 1) }

    init(_ storage: Storage, _ options: CheckOptions) throws(ImageError) {
        self.storage = storage
        self.options = options
        fileLength = storage.length
        let start = BigEndianBytes(try storage.read(at: HostOffset(0), count: 512))
        header = try Header(start, refcountTable: .unjudged)
        let first = BigEndianBytes(try storage.read(at: HostOffset(0), count: Int(header.clusterSize)))
        guard first.count >= Int(header.length) else {
            throw .malformed("the header is cut off", advice: "the image is truncated")
        }
        extensions = try QCOW2Image.readExtensions(first, header)
        rules = EntryValidator(
            clusterBits: UInt64(header.clusterBits), version: header.version, subclusters: header.hasSubclusters,
            external: header.hasExternalData, fileLength: storage.length, dataLength: storage.length,
            areas: MetadataAreas.none)
        counts = ClusterCounts(memoryLimit: options.memoryLimit)
        stored = StoredRefcounts(storage, header, table: [])
    }

    func run() throws(ImageError) {
        report.totalClusters = header.diskSize == 0 ? 0 : (header.diskSize - 1) >> clusterBits + 1
        _ = try claim(HostOffset(0), bytes: clusterSize, needed: 0, as: .unique, "the header")
        let roots = try claimRoots()
        stored = StoredRefcounts(storage, header, table: try readRefcountTable())
        for root in roots { try walkL1(root) }
        try walkTables()
        try claimRefcountStructure()
        try compareRefcounts()
        let highest = max(counts.highest ?? 0, highestStored ?? 0)
        report.imageEnd = HostOffset((highest &+ 1) &<< clusterBits)
    }

    // MARK: findings

    func find(_ severity: CheckFinding.Severity, _ what: @autoclosure () -> String, at place: HostOffset? = nil) {
        if report.findings.count >= options.findingLimit {
            report.add(CheckFinding(severity: severity, what: "", at: nil), limit: options.findingLimit)
        } else {
            report.add(CheckFinding(severity: severity, what: what(), at: place), limit: options.findingLimit)
        }
    }

    /// Something that names other clusters is broken: what seems unused may be what it meant.
    func findBroken(_ what: @autoclosure () -> String, at place: HostOffset? = nil) {
        find(.corruption, what(), at: place)
        if report.keepsLeaks == nil {
            report.keepsLeaks = "a damaged entry may have meant clusters that seem unused"
        }
    }

    // MARK: counting

    enum Claim { case counted, overlapping, outside }

    /// Counts `weight` references to every cluster of a range of the file. Ranges that end a cluster or more behind the
    /// file's end are damage. The rest of the file's last cluster need not be there, but for the first `needed` bytes of
    /// the range (nil: all of it).
    func claim(
        _ start: HostOffset, bytes: UInt64, needed: UInt64? = nil, as use: ClusterCounts.Use, weight: UInt64 = 1,
        _ what: @autoclosure () -> String
    ) throws(ImageError) -> Claim {
        guard bytes > 0 else { return .counted }
        let (end, overflow) = start.bytes.addingReportingOverflow(bytes)
        guard !overflow, end <= fileLength || end - fileLength < clusterSize else {
            findBroken("\(what()) lies past the end of the file: the image is truncated or damaged", at: start)
            markDangling(start, bytes: bytes)
            report.isTruncated = true
            return .outside
        }
        if start.bytes + (needed ?? bytes) > fileLength {
            find(.corruption, "\(what()) is cut off: the file ends at \(fileLength), inside its cluster", at: start)
            report.isTruncated = true
        }
        var claim = Claim.counted
        for cluster in (start.bytes >> clusterBits)...((end - 1) >> clusterBits) {
            let before = try counts.add(cluster, as: use, weight: weight)
            guard before != .none, before != use || use == .unique else { continue }
            claim = .overlapping
            tables[cluster]?.isOverlapped = true
            findBroken(
                "\(what()) overlaps \(before.words) in cluster \(cluster)", at: HostOffset(cluster << clusterBits))
        }
        return claim
    }

    /// Remembers that something points here.
    func markDangling(_ start: HostOffset, bytes: UInt64) {
        guard dangling.count < 65536 else {
            hasTooManyDangling = true
            return
        }
        let end = start.bytes.addingReportingOverflow(max(bytes, 1) - 1)
        let last = end.overflow ? UInt64.max : end.partialValue
        dangling.append((start.bytes >> clusterBits)...(last >> clusterBits))
    }

    /// Reads `entries` words of a table in pieces; words past the end of the file are zeros.
    func forEachWord(
        at start: HostOffset, entries: UInt64, _ body: (UInt64, UInt64) throws(ImageError) -> Void
    ) throws(ImageError) {
        let piece: UInt64 = 131_072
        var first: UInt64 = 0
        while first < entries {
            try stopIfInterrupted()
            let count = min(piece, entries - first)
            let (at, overflow) = start.bytes.addingReportingOverflow(first * 8)
            guard !overflow, at < fileLength else { return }
            let words = tableWords(try read(at: HostOffset(at), count: Int(count * 8)))
            if words.isEmpty { return }
            for (i, word) in words.enumerated() where word != 0 { try body(first + UInt64(i), word) }
            first += count
        }
    }

    /// Up to `count` bytes, fewer only where the file ended when the check began: what was cut off since is no zeros.
    func read(at place: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        try storage.read(at: place, count: count, ofLength: fileLength)
    }

    // MARK: pace

    func stopIfInterrupted() throws(ImageError) {
        if options.isInterrupted() { throw ImageError(.system, "interrupted") }
    }

    /// Another table is done, of `total` and the refcount blocks.
    func advance(of total: Int) throws(ImageError) {
        try stopIfInterrupted()
        done += 1
        options.progress(done, max(done, UInt64(total) + UInt64(stored.table.count)))
    }
}

extension ClusterCounts.Use {
    var words: String {
        switch self {
        case .none: "nothing"
        case .data: "guest data"
        case .table: "an L2 table"
        case .unique: "other metadata"
        }
    }
}
