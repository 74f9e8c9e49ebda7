// The workers of a conversion must never do the same piece twice nor leave one out. They all take their pieces here,
// in the order of the disk; what is known to be zero is passed over without a worker's help.

import DiskTypes
import ImageChain

/// The pieces of a disk that a conversion has to look at.
struct CopySource: Sendable {
    enum Piece {
        /// Read it; it may still turn out to be zeros.
        case data(start: UInt64, length: UInt64)
        case zero(start: UInt64, length: UInt64)
        /// Cannot be read. Only told to who salvages; an error otherwise.
        case damaged(start: UInt64, length: UInt64, ImageError)
    }

    /// Zeroing is one call; it is cut so that it can be interrupted.
    private static let zeroPiece: UInt64 = 256 << 20

    private var reader: StatusReader
    /// How far the pieces handed out go.
    private(set) var cursor: UInt64 = 0
    private let size: UInt64
    /// Longest data piece; pieces end at multiples of it, so that no compressed cluster is inflated twice.
    let pieceSize: UInt64
    private let tellsZeros: Bool
    private let readsZeros: Bool
    private let salvages: Bool
    /// Pieces start at multiples of it, and end there or with the disk.
    private let unit: UInt64
    private var ahead: StatusReader.Look?
    private var aheadEnd: UInt64 = 0

    /// `tellsZeros`: the target does not read as zeros by itself. `readsZeros`: they are to be written like data.
    init(
        _ chain: ImageChain, tellsZeros: Bool, readsZeros: Bool, salvages: Bool, pieceSize: UInt64, unit: UInt64 = 1
    ) {
        reader = StatusReader(chain)
        size = chain.size
        self.unit = unit
        self.pieceSize = chain.layers.reduce(max(pieceSize, unit)) { max($0, $1.clusterSize) }
        self.tellsZeros = tellsZeros
        self.readsZeros = readsZeros
        self.salvages = salvages
    }

    /// Nothing is left.
    var isDone: Bool { cursor >= size }

    /// The next piece; nil at the disk's end.
    mutating func next() throws(ImageError) -> Piece? {
        while cursor < size {
            let start = cursor
            let look = try look(at: start)
            let whole = aheadEnd == size ? size : aheadEnd & ~(unit - 1)
            switch look {
            // A unit that is not all of one kind is read, whatever it is made of.
            case .status(let status) where isData(status) || whole <= start:
                return try data(from: start)
            case .damaged where whole <= start:
                return try data(from: start)
            case .damaged(let damage):
                cursor = whole
                return .damaged(start: start, length: whole - start, reader.chain.error(damage))
            case .status:
                cursor = tellsZeros ? min(whole, start + Self.zeroPiece) : whole
                if tellsZeros { return .zero(start: start, length: cursor - start) }
            }
        }
        return nil
    }

    /// Data from `start` on, up to a piece's limit. Fragments that are neighbours on the disk are one piece, wherever
    /// they lie in the file.
    private mutating func data(from start: UInt64) throws(ImageError) -> Piece {
        let limit = min(size, (start / pieceSize + 1) * pieceSize)
        var end = start
        while end < limit {
            let boundary = min((end + unit - 1) & ~(unit - 1), limit)
            if case .status(let status) = try look(at: end), isData(status) {
                end = min(aheadEnd, limit)
            } else if end == start || end < boundary {
                // The rest of a unit that has data.
                end = min(aheadEnd, end == start ? min(start + unit, limit) : boundary)
            } else {
                break
            }
        }
        cursor = end
        return .data(start: start, length: end - start)
    }

    private func isData(_ status: BlockStatus) -> Bool { readsZeros || status.mustBeRead }

    /// What is at `place`, as far as `aheadEnd`. Looks only where the last look does not reach.
    private mutating func look(at place: UInt64) throws(ImageError) -> StatusReader.Look {
        if let ahead, place < aheadEnd { return ahead }
        let look = try reader.look(at: place, length: size - place)
        switch look {
        case .status(let status): aheadEnd = place + status.length
        case .damaged(let damage):
            guard salvages else { throw reader.chain.error(damage) }
            aheadEnd = place + min(max(damage.length, 1), size - place)
        }
        ahead = look
        return look
    }
}
