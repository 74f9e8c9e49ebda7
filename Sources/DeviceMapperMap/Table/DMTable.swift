// A disk as device-mapper sees it: lines that say which sectors come from where. Pure data: it knows files by their
// number in the chain, no device, no kernel.

/// Where the sectors of a line come from.
///
/// A writable map will add one case here, the device of the slow path, and one rule to `DMTableBuilder`: what is an
/// obstacle today goes there instead.
public enum DMSource: Hashable, Sendable, BitwiseCopyable {
    /// File number n of the chain.
    case file(UInt16)
    /// Reads as zeros.
    case zeros
    /// Reading is an I/O error: the image's mapping is damaged there.
    case error
}

/// One line of a table. All numbers are sectors.
public struct DMLine: Equatable, Sendable, BitwiseCopyable {
    /// The first sector of the device.
    public var start: UInt64
    /// How many; never 0.
    public var length: UInt64
    /// Where they come from.
    public var source: DMSource
    /// Where in the file the line begins; 0 for zeros and errors.
    public var offset: UInt64

    /// A line of `length` sectors from sector `start` on.
    public init(start: UInt64, length: UInt64, source: DMSource, offset: UInt64 = 0) {
        self.start = start
        self.length = length
        self.source = source
        self.offset = offset
    }

    /// Whether `next`, which begins where this line ends, is more of the same.
    func continues(into next: DMLine) -> Bool {
        guard next.start == start + length, next.source == source else { return false }
        guard case .file = source else { return true }
        return next.offset == offset + length
    }
}

/// A whole table: its lines cover the disk from sector 0 on, without gaps.
public struct DMTable: Equatable, Sendable {
    /// Ascending, without gaps; each begins where the one before ends.
    public let lines: [DMLine]
    /// The files that lines refer to, ascending.
    public let files: [UInt16]
    /// Whether any line reads as zeros, so that a zero device is needed.
    public let hasZeros: Bool
    /// Whether reading some line is an I/O error.
    public let hasErrors: Bool

    init(lines: [DMLine]) {
        self.lines = lines
        var files: Set<UInt16> = []
        var zeros = false
        var errors = false
        for line in lines {
            switch line.source {
            case .file(let file): files.insert(file)
            case .zeros: zeros = true
            case .error: errors = true
            }
        }
        self.files = files.sorted()
        hasZeros = zeros
        hasErrors = errors
    }

    /// Size of the device.
    public var sectors: UInt64 { lines.last.map { $0.start + $0.length } ?? 0 }

    /// How many sectors of file `file` the lines reach: its loop device must have as many.
    public func sectorsNeeded(ofFile file: UInt16) -> UInt64 {
        var end: UInt64 = 0
        for line in lines where line.source == .file(file) { end = max(end, line.offset + line.length) }
        return end
    }

    /// The longest run of zeros: what the zero device must have.
    public var longestZeros: UInt64 {
        var longest: UInt64 = 0
        for line in lines where line.source == .zeros { longest = max(longest, line.length) }
        return longest
    }
}
