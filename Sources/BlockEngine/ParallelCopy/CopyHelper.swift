// One thread copies a megabyte in a third of a millisecond while other processors idle. A second thread takes chunks of it
// from the other end; the later of the two takes fewer, so neither waits for longer than one chunk.
import Glibc
import LinuxIO

/// A second thread that helps one worker with its long copies. Created, used and dropped by that worker.
@safe public final class CopyHelper {
    private let work: CopyWorkQueue
    private var thread: WorkerThread?
    private let list: UnsafeMutablePointer<iovec>
    private var backoff = HelperBackoff()
    /// The shortest copy that is shared, in bytes: for shorter ones the exchange costs more than it saves.
    let least: Int
    let chunkBytes: Int
    /// How many ranges of memory a copy may have.
    let maxIovecs: Int

    /// Starts the second thread. Nil where both would share a processor, or the system has no thread to give.
    ///
    /// - Parameters:
    ///   - maxIovecs: how many ranges of memory a copy has at most.
    ///   - looks: how long the thread looks for the next copy before it sleeps, in nanoseconds.
    ///   - least: the shortest copy that is shared, in bytes.
    ///   - chunkBytes: how much a thread copies before it looks where the other one is, in bytes; 4096 at least.
    public init?(maxIovecs: Int, looks: Int64, least: Int = 256 << 10, chunkBytes: Int = 32 << 10) {
        guard ThreadFlags.processors > 1, maxIovecs > 0, least > 0, chunkBytes >= 4096, let work = CopyWorkQueue()
        else {
            return nil
        }
        let life = CopyHelperThread(work: work, maxIovecs: maxIovecs, looks: looks)
        guard let thread = try? WorkerThread.start("qblk-helper", life) else { return nil }
        self.work = work
        self.thread = consume thread
        self.least = least
        self.chunkBytes = chunkBytes
        self.maxIovecs = maxIovecs
        unsafe list = .allocate(capacity: maxIovecs)
    }

    deinit {
        work.quit()
        thread.take()?.join()
        unsafe list.deallocate()
    }

    /// Whether the helper lately paid off, or it is time to try again.
    var shouldShare: Bool { backoff.shouldShare(at: MonotonicClock.coarse()) }

    /// Moves all of a copy and returns how many of its chunks the helper moved. Nil: some chunk was not moved; which one is
    /// not known.
    func run(_ copy: ParallelCopy) -> Int? {
        work.offer(copy)
        var isWhole = true
        while isWhole, let chunk = work.takeFirst() { isWhole = unsafe copy.move(chunk, list) }
        let others = work.withdraw()
        let waited = work.wait(for: others)
        backoff.record(others, waited: waited, at: MonotonicClock.coarse())
        return isWhole && !work.hasFailed ? others : nil
    }
}
