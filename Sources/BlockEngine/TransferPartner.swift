// Why this file exists: one thread copies a megabyte in a third of a millisecond while other processors idle. A second
// thread takes pieces of it from the other end; who is late takes fewer, so neither waits for longer than one piece.
import Glibc
import LinuxIO

/// Helps one thread with its long transfers. Made, used and dropped by that thread.
public final class TransferPartner {
    private let desk: TransferDesk
    private var thread: WorkerThread?
    private let list: UnsafeMutablePointer<iovec>
    private var trust = PartnerTrust()
    /// Shorter transfers are not worth the talk, in bytes.
    let least: Int
    let pieceBytes: Int
    /// Ranges of memory that a transfer may have.
    let maxIovecs: Int

    /// Starts the second thread. Nil where both would share a processor, or the system has no thread to give.
    ///
    /// - Parameters:
    ///   - maxIovecs: how many ranges of memory a transfer has at most.
    ///   - looks: how long the thread looks for the next transfer before it sleeps, in nanoseconds.
    public init?(maxIovecs: Int, looks: Int64, least: Int = 256 << 10, pieceBytes: Int = 32 << 10) {
        guard ThreadFlags.processors > 1, maxIovecs > 0, least > 0, pieceBytes >= 4096, let desk = TransferDesk() else {
            return nil
        }
        let life = PartnerLife(desk: desk, maxIovecs: maxIovecs, looks: looks)
        guard let thread = try? WorkerThread.start("qblk-partner", life) else { return nil }
        self.desk = desk
        self.thread = consume thread
        self.least = least
        self.pieceBytes = pieceBytes
        self.maxIovecs = maxIovecs
        list = .allocate(capacity: maxIovecs)
    }

    deinit {
        desk.quit()
        thread.take()?.join()
        list.deallocate()
    }

    /// Whether it lately paid off, or it is time to try again.
    var isWorthIt: Bool { trust.isGiven(at: MonotonicClock.coarse()) }

    /// Moves all of a transfer; how many of its pieces the second thread moved. Nil: not all was moved, and what is unknown.
    func run(_ transfer: SharedTransfer) -> Int? {
        desk.offer(transfer)
        var isWhole = true
        while isWhole, let piece = desk.takeFirst() { isWhole = transfer.move(piece, list) }
        let others = desk.withdraw()
        let waited = desk.wait(for: others)
        trust.saw(others, waited: waited, at: MonotonicClock.coarse())
        return isWhole && !desk.hasFailed ? others : nil
    }
}
