// Which host clusters the next writes get. Free clusters come from the refcounts, in batches for each worker where several
// write at a time; and the file must be long enough before a cluster behind its end is given out.

import DiskTypes

/// The clusters of one image that is written. Used under the writer's lock.
struct ClusterAllocator {
    private var refcounts: Refcounts
    private var reservations: Reservations
    /// Clusters from this number on were never written: they read as zeros. `.max` where that cannot be known.
    private(set) var untouched: UInt64
    private(set) var file: FileGrowth

    private let clusterBits: UInt64
    private let canGrow: Bool

    /// `fileLength` in bytes. `canGrow`: the file can be made longer; a block device cannot.
    init(refcounts: Refcounts, clusterSize: UInt64, fileLength: UInt64, canGrow: Bool) {
        self.refcounts = refcounts
        self.canGrow = canGrow
        clusterBits = refcounts.clusterBits
        reservations = Reservations(clusterSize: clusterSize)
        untouched = canGrow ? refcounts.end : .max
        file = FileGrowth(length: fileLength, clusterSize: clusterSize)
    }

    /// Bytes of the file that its clusters in use take, from its beginning to the end of the last one.
    var endOffset: UInt64 { refcounts.end << clusterBits }

    // MARK: allocation

    /// Up to `count` clusters in a row for data, at least one, for a worker (see `Reservations`). `isUntouched`: they read as
    /// zeros. Nil: the file must be made longer first, and `file` knows how long.
    mutating func allocate(
        _ count: Int, for worker: Int
    ) throws(RefcountObstacle) -> (clusters: Range<UInt64>, isUntouched: Bool)? {
        if let own = reservations.take(count, at: worker) { return own }
        // Where the file cannot grow by steps, a worker takes no more than it writes.
        let run = try allocateRun(file.growsBySteps ? reservations.wanted(count, at: worker) : count)
        if canGrow, run.upperBound << clusterBits > file.length {
            // Taken back: they are the first to be taken when the file is longer.
            file.need((run.lowerBound + UInt64(min(count, run.count))) << clusterBits)
            for cluster in run { _ = try? refcounts.release(cluster) }
            return nil
        }
        let isUntouched = run.lowerBound >= untouched
        touch(upTo: run.upperBound)
        return (reservations.keep(run, behind: count, at: worker, isUntouched: isUntouched), isUntouched)
    }

    private mutating func allocateRun(_ count: Int) throws(RefcountObstacle) -> Range<UInt64> {
        do throws(RefcountObstacle) { return try refcounts.allocate(count) } catch {
            guard error == .full else { throw error }
            // What other workers only keep is room, too.
            try releaseReserved()
            return try refcounts.allocate(count)
        }
    }

    /// One cluster for an L2 table. It may lie behind the file's end.
    mutating func allocateTable() throws(RefcountObstacle) -> UInt64 {
        let cluster = try refcounts.allocate(1, asMetadata: true).lowerBound
        touch(upTo: cluster + 1)
        return cluster
    }

    /// `count` clusters in a row for a table; the first one's number. They may lie behind the file's end.
    mutating func allocateRow(_ count: UInt64, _ search: inout RowSearch) throws(RefcountObstacle) -> UInt64 {
        let first = try refcounts.allocateRow(count, &search)
        touch(upTo: first + count)
        return first
    }

    private mutating func touch(upTo end: UInt64) { if untouched != .max { untouched = max(untouched, end) } }

    /// Counts a cluster that a killed process had taken: once, whether the disk counts it or not.
    mutating func adopt(_ cluster: UInt64) throws(RefcountObstacle) { try refcounts.adopt(cluster) }

    // MARK: references

    /// Gives a reference back. True: it was the last one, and the cluster is free.
    @discardableResult mutating func release(_ cluster: UInt64) throws(RefcountObstacle) -> Bool {
        try refcounts.release(cluster)
    }

    /// References to a cluster.
    func count(of cluster: UInt64) throws(RefcountObstacle) -> UInt64 { try refcounts.count(of: cluster) }

    /// Whether a cluster holds one of the image's tables.
    func isMetadata(_ cluster: UInt64) -> Bool { refcounts.metadata.contains(cluster) }

    // MARK: refcount blocks

    /// Where refcount block `number` is in the file.
    func offset(ofBlock number: Int) -> HostOffset { HostOffset(refcounts.table[number]) }

    /// Takes in a refcount block that was loaded.
    mutating func supply(_ number: Int, _ bytes: [UInt8]) { refcounts.supply(number, bytes) }

    // MARK: workers

    /// A worker is going to write: it may keep clusters from here on.
    mutating func enter(_ worker: Int) { reservations.enter(worker) }
    /// The worker writes no more. What it kept stays reserved until `releaseReserved`.
    mutating func leave(_ worker: Int) { reservations.leave(worker) }

    /// Makes everything free that is only reserved. What throws is to be done first; a second call goes on from there.
    mutating func releaseReserved() throws(RefcountObstacle) {
        while let cluster = reservations.last {
            _ = try refcounts.release(cluster)
            reservations.dropLast()
        }
    }

    // MARK: the file's length

    /// The length in bytes that the file is to be made next; nil where it is long enough.
    var nextLength: UInt64? { canGrow ? file.next(after: endOffset) : nil }

    /// The file has `length` bytes now.
    mutating func setFileLength(_ length: UInt64) { file.length = length }

    /// Whether the file has `length` bytes; else that is what the next growth is for.
    mutating func requireFileLength(_ length: UInt64) -> Bool {
        file.need(max(file.needed, length))
        return length <= file.length
    }

    /// The system has refused a step. False: there is no smaller one.
    mutating func refuseFileGrowth() -> Bool { file.refuseStep() }

    /// The last clusters in use become the file's end: free ones behind them do not count any more.
    mutating func lowerEnd() throws(RefcountObstacle) { try refcounts.lowerEnd() }

    // MARK: to the disk

    /// The disk lacks refcounts.
    var isDirty: Bool { refcounts.isDirty }
    /// All refcounts that the disk lacks, taken for a write-back.
    mutating func takeDirty() -> RefcountChanges { refcounts.takeDirty() }
    /// Refcounts that did not reach the disk wait for the next write-back.
    mutating func putBack(_ changes: RefcountChanges) { refcounts.putBack(changes) }
}
