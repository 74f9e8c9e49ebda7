// The workers of a conversion share two things: the pieces that are left, and the first thing that went wrong. What
// one of them cannot do stops all, and of several errors the one nearest to the disk's start is told.

import DiskTypes
import Glibc
import LinuxIO
import Synchronization

/// Hands out pieces, one after the other, to any number of workers.
final class PieceQueue: Sendable {
    struct Taken {
        let piece: CopySource.Piece
        /// Counts the pieces.
        let number: UInt64
        /// How far the pieces handed out go.
        let cursor: UInt64
    }

    private let cancel: CancelFlag
    private let source: Mutex<(pieces: CopySource, count: UInt64)>
    /// Bytes of data to hand out in a second at most.
    private let bytesPerSecond: UInt64?
    /// When the next data may be read, in nanoseconds of the monotonic clock.
    private let due = Atomic<Int64>(0)
    private let known = Mutex<(place: UInt64, error: ImageError)?>(nil)

    init(_ source: CopySource, _ cancel: CancelFlag, bytesPerSecond: UInt64? = nil) {
        self.cancel = cancel
        self.bytesPerSecond = bytesPerSecond
        self.source = Mutex((source, 0))
    }

    /// The next piece; nil when there is none or the work has to end.
    func next() -> Taken? {
        if hasFailed { return nil }
        let taken = take()
        if let bytesPerSecond, case .data(_, let length)? = taken?.piece { waitForTurn(length, bytesPerSecond) }
        return taken
    }

    /// Sleeps until `length` bytes more are within the rate. Time in which nothing was read is not made up for.
    private func waitForTurn(_ length: UInt64, _ bytesPerSecond: UInt64) {
        // A piece has 2 MiB at most; at one byte a second that is less than Int64 holds.
        let cost = Int64(Double(length) / Double(bytesPerSecond) * 1e9)
        var known = due.load(ordering: .relaxed)
        var start: Int64
        repeat {
            start = max(known, MonotonicClock.nanoseconds())
            let (isSet, current) = due.compareExchange(expected: known, desired: start + cost, ordering: .relaxed)
            if isSet { break }
            known = current
        } while true
        while MonotonicClock.nanoseconds() < start, !cancel.isSet, !hasFailed { usleep(10_000) }
    }

    private func take() -> Taken? {
        source.withLock { source in
            do throws(ImageError) {
                try cancel.check()
                guard let piece = try source.pieces.next() else { return nil }
                source.count += 1
                return Taken(piece: piece, number: source.count - 1, cursor: source.pieces.cursor)
            } catch {
                fail(at: source.pieces.cursor, error)
                return nil
            }
        }
    }

    var hasFailed: Bool { known.withLock { $0 != nil } }

    /// Throws what went wrong. Otherwise all pieces have been handed out; how many there were.
    @discardableResult func check() throws(ImageError) -> UInt64 {
        if let failure = known.withLock({ $0 }) { throw failure.error }
        let (isDone, count) = source.withLock { ($0.pieces.isDone, $0.count) }
        guard isDone else { throw ImageError(.system, "the workers ended before the disk did") }
        return count
    }

    /// Stops the work.
    func fail(at place: UInt64, _ error: ImageError) {
        known.withLock { known in
            if known.map({ place < $0.place }) ?? true { known = (place, error) }
        }
    }
}
