// A refcount block that a writer has in memory, as it is on disk, and which part of it the disk lacks.

/// One refcount block in memory.
final class CachedRefcountBlock {
    private(set) var bytes: [UInt8]
    /// Bytes that the disk does not have yet.
    private(set) var dirty: Range<Int>?
    private let order: UInt32

    init(_ bytes: [UInt8], order: Int, isNew: Bool = false) {
        self.bytes = bytes
        self.order = UInt32(order)
        dirty = isNew ? 0..<bytes.count : nil
    }

    var count: Int { (bytes.count * 8) >> Int(order) }

    subscript(_ i: Int) -> UInt64 {
        get { RefcountBlock.load(bytes, i, order: order) }
        set { taint(RefcountBlock.store(newValue, into: &bytes, i, order: order)) }
    }

    /// The first entry from `start` on that is 0.
    func firstFree(from start: Int) -> Int? { (start..<max(count, start)).first { self[$0] == 0 } }

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
