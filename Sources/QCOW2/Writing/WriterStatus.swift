// What a writer may still do, and why not: which sync has failed, whether another program has cut the file, whether the
// image is corrupt. Kept apart from the changes themselves, so that each reason has one place that decides what follows.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The state of one image's writer besides its changes. Used under the writer's lock.
struct WriterStatus {
    /// The header and the bitmaps are marked as the format asks before the first change.
    private(set) var isPrepared: Bool
    /// The errno that every change gets from here on; nil while changes may begin.
    private(set) var closedBy: Int32?
    /// The errno of the first sync that failed. What was written before it may or may not be on the disk, and later syncs
    /// that succeed say nothing about that.
    private(set) var syncFailure: Int32?
    /// Another program has made the file shorter.
    private(set) var isCut = false
    /// The process before this one was killed: clusters that it had taken may count as used without a reference.
    private(set) var mayLeak = false

    init(isPrepared: Bool) { self.isPrepared = isPrepared }

    /// The header and the bitmaps are on the disk.
    mutating func finishPreparation() { isPrepared = true }

    /// A write-back's sync has failed with errno `error`. Its changes wait for the next write-back.
    mutating func failSync(_ error: Int32) { if syncFailure == nil { syncFailure = error } }

    /// A sync has failed with errno `error`, and nothing may change any more.
    mutating func giveUp(_ error: Int32) {
        failSync(error)
        if closedBy == nil { closedBy = error }
    }

    /// The file is shorter than it was. That is the image's fault, whatever has failed before.
    mutating func cut() { (isCut, syncFailure, closedBy) = (true, EIO, EIO) }

    /// The image is corrupt. False: it was closed before.
    @discardableResult mutating func closeAsCorrupt() -> Bool {
        guard closedBy == nil else { return false }
        closedBy = EIO
        return true
    }

    /// The process before this one was killed.
    mutating func followKilledProcess() { mayLeak = true }
}
