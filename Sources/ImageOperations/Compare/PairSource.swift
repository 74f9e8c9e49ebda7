// Two disks, walked side by side. Ranges that are zero in both cost nothing; the others are dealt out to the workers
// in the order of the disk, so that the first difference can be told.

import DiskTypes
import ImageChain

/// The pieces of two disks that have to be read.
struct PairSource: Sendable {
    struct Piece {
        let start: UInt64
        let length: UInt64
        /// Which of the two has to be read; the other one is zeros here.
        let reads: (first: Bool, second: Bool)
    }
    enum Step {
        case piece(Piece)
        case strictDifference(at: UInt64)
    }

    private var readers: (first: StatusReader, second: StatusReader)
    private var ahead: (first: BlockStatus?, second: BlockStatus?) = (nil, nil)
    private(set) var cursor: UInt64 = 0
    private let sizes: (first: UInt64, second: UInt64)
    private let strict: Bool
    let pieceSize: UInt64

    init(_ first: ImageChain, _ second: ImageChain, strict: Bool, pieceSize: UInt64) {
        readers = (StatusReader(first), StatusReader(second))
        sizes = (first.size, second.size)
        self.strict = strict
        self.pieceSize = (first.layers + second.layers).reduce(pieceSize) { max($0, $1.clusterSize) }
    }

    var end: UInt64 { max(sizes.first, sizes.second) }

    /// The next piece; nil at the end of the longer disk.
    mutating func next() throws(ImageError) -> Step? {
        while cursor < end {
            let start = cursor
            let a = try Self.status(&readers.first, &ahead.first, start, sizes.first)
            let b = try Self.status(&readers.second, &ahead.second, start, sizes.second)
            if strict, let a, let b, !a.isSameKind(as: b) { return .strictDifference(at: start) }
            let runEnd = min(a?.end ?? end, b?.end ?? end)
            let reads = (first: a?.mustBeRead ?? false, second: b?.mustBeRead ?? false)
            guard reads.first || reads.second else {
                cursor = runEnd
                continue
            }
            cursor = min(runEnd, (start / pieceSize + 1) * pieceSize)
            return .piece(Piece(start: start, length: cursor - start, reads: reads))
        }
        return nil
    }

    /// What one disk is made of at `place`; nil past its end.
    private static func status(
        _ reader: inout StatusReader, _ ahead: inout BlockStatus?, _ place: UInt64, _ size: UInt64
    ) throws(ImageError) -> BlockStatus? {
        guard place < size else { return nil }
        if let known = ahead, place < known.end { return known }
        let status = try reader.status(at: place, length: size - place)
        ahead = status
        return status
    }
}
