// Which words of L2 slices the disk lacks. Every allocating write changes an entry, and the write-back must know
// which: a bit for each word of each slice that is in memory, found by the slice's slot, with no hashing and no
// allocation for a write.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Words of cached L2 slices that the disk does not have yet. For the holder of the writer's lock.
@safe final class DirtySlices: @unchecked Sendable {
    private let wordsPerSlice: Int
    private let slots: Int
    private nonisolated(unsafe) let bits: UnsafeMutablePointer<UInt64>
    /// The dirty slices and their slots, and for each slot whether its slice is one of them.
    private var list: [(slice: Int, slot: Int)] = []
    private nonisolated(unsafe) let isListed: UnsafeMutablePointer<Bool>

    init?(slots: Int, wordsPerSlice: Int) {
        self.wordsPerSlice = (wordsPerSlice + 63) / 64
        self.slots = slots
        // calloc: what is not used stays untouched.
        guard let bits = unsafe calloc(max(slots * self.wordsPerSlice, 1), 8),
            let flags = unsafe calloc(max(slots, 1), 1)
        else { return nil }
        unsafe self.bits = bits.assumingMemoryBound(to: UInt64.self)
        unsafe isListed = flags.assumingMemoryBound(to: Bool.self)
    }
    deinit {
        unsafe free(bits)
        unsafe free(isListed)
    }

    var count: Int { list.count }
    var isEmpty: Bool { list.isEmpty }

    /// True: the slice was clean until now.
    func mark(_ slice: Int, slot: Int, _ index: Int) -> Bool {
        guard slot >= 0, slot < slots, index >> 6 < wordsPerSlice else { return false }
        unsafe bits[slot * wordsPerSlice + index >> 6] |= 1 << UInt64(index & 63)
        if unsafe isListed[slot] { return false }
        unsafe isListed[slot] = true
        list.append((slice, slot))
        return true
    }

    /// All dirty words; everything is clean afterwards.
    func takeAll() -> [DirtyWords] {
        defer { list = [] }
        return list.map { slice, slot in
            unsafe isListed[slot] = false
            let first = unsafe bits + slot * wordsPerSlice
            let mask = unsafe Array(UnsafeBufferPointer(start: first, count: wordsPerSlice))
            unsafe first.update(repeating: 0, count: wordsPerSlice)
            return DirtyWords(slice: slice, slot: slot, mask: mask)
        }
    }

    /// What was taken is dirty again. True: the slice was clean until now.
    func mark(_ words: DirtyWords) -> Bool {
        var isNew = false
        words.visit { if mark(words.slice, slot: words.slot, $0) { isNew = true } }
        return isNew
    }
}

/// Words of one slice, a bit for each.
struct DirtyWords {
    let slice: Int
    let slot: Int
    let mask: [UInt64]

    @inline(__always) func visit(_ body: (Int) -> Void) {
        for (i, bits) in mask.enumerated() {
            var left = bits
            while left != 0 {
                body(i * 64 + left.trailingZeroBitCount)
                left &= left &- 1
            }
        }
    }
}

/// Guest clusters of writes in flight: as many ranges as writes, which are few.
struct InFlightClusters {
    private var ranges: [(first: UInt64, end: UInt64)] = []

    var count: UInt64 { UInt64(ranges.count) }

    func contains(_ cluster: UInt64) -> Bool {
        for range in ranges where cluster >= range.first && cluster < range.end { return true }
        return false
    }

    /// The nearest one from `cluster` on.
    func next(from cluster: UInt64) -> UInt64 {
        var next = UInt64.max
        for range in ranges where range.end > cluster { next = min(next, max(range.first, cluster)) }
        return next
    }

    mutating func insert(_ first: UInt64, count: UInt64) { ranges.append((first, first + count)) }

    mutating func remove(_ first: UInt64) {
        guard let i = ranges.firstIndex(where: { $0.first == first }) else { return }
        ranges.swapAt(i, ranges.count - 1)
        ranges.removeLast()
    }
}
