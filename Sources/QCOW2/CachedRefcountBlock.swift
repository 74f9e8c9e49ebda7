// Why this file exists: a refcount block as it is on disk: entries of 1 to 64 bits, big endian, those below a byte filled
// from its low end (specification: "Host cluster management").

/// One refcount block in memory.
final class CachedRefcountBlock {
    private(set) var bytes: [UInt8]
    /// Bytes that the disk does not have yet.
    private(set) var dirty: Range<Int>?
    private let order: Int

    init(_ bytes: [UInt8], order: Int, isNew: Bool = false) {
        self.bytes = bytes
        self.order = order
        dirty = isNew ? 0..<bytes.count : nil
    }

    var count: Int { (bytes.count * 8) >> order }

    subscript(_ i: Int) -> UInt64 {
        get {
            switch order {
            case 4: return UInt64(bytes[2 * i]) << 8 | UInt64(bytes[2 * i + 1])
            case 3: return UInt64(bytes[i])
            case 0..<3:
                let bit = i << order
                return UInt64(bytes[bit >> 3]) >> UInt64(bit & 7) & (1 << (1 << UInt64(order)) - 1)
            default:
                let width = 1 << (order - 3)
                return bytes[i * width..<(i + 1) * width].reduce(0) { $0 << 8 | UInt64($1) }
            }
        }
        set {
            let first: Int
            var width = 1
            if order < 3 {
                let bit = i << order
                first = bit >> 3
                let mask = UInt8(truncatingIfNeeded: (1 << (1 << order) - 1) << (bit & 7))
                bytes[first] = bytes[first] & ~mask | UInt8(truncatingIfNeeded: newValue << UInt64(bit & 7)) & mask
            } else {
                width = 1 << (order - 3)
                first = i * width
                for k in 0..<width {
                    bytes[first + k] = UInt8(truncatingIfNeeded: newValue >> UInt64(8 * (width - 1 - k)))
                }
            }
            dirty = dirty.map { min($0.lowerBound, first)..<max($0.upperBound, first + width) } ?? first..<first + width
        }
    }

    /// The first entry from `start` on that is 0.
    func firstFree(from start: Int) -> Int? {
        var i = start
        while i < count {
            if self[i] == 0 { return i }
            i += 1
        }
        return nil
    }

    /// The dirty bytes, taken for the disk; `taint` when they did not get there.
    func takeDirty() -> (start: Int, bytes: [UInt8])? {
        guard let range = dirty else { return nil }
        dirty = nil
        return (range.lowerBound, Array(bytes[range]))
    }

    func taint(_ range: Range<Int>) {
        dirty = dirty.map { min($0.lowerBound, range.lowerBound)..<max($0.upperBound, range.upperBound) } ?? range
    }
}
