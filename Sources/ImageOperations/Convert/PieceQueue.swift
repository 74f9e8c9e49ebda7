// Why this file exists: the workers of a conversion share two things: the pieces that are left, and the first thing
// that went wrong. What one of them cannot do stops all, and of several errors the one nearest to the disk's start is
// told.

import DiskTypes
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
    private let known = Mutex<(place: UInt64, error: ImageError)?>(nil)

    init(_ source: CopySource, _ cancel: CancelFlag) {
        self.cancel = cancel
        self.source = Mutex((source, 0))
    }

    /// The next piece; nil when there is none or the work has to end.
    func next() -> Taken? {
        if hasFailed { return nil }
        return source.withLock { source in
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
