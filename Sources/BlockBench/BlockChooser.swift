// Chooses which block comes next, and records what each block holds when bytes are checked. Each queue has a chooser;
// with `verify` its blocks are its own, so that no other thread changes them.
import DiskTypes

/// Chooses the blocks of one queue and records what they hold. `free` frees it.
@safe struct BlockChooser: BitwiseCopyable {
    private let blockBytes: UInt64
    /// The blocks to choose from.
    private let first: UInt64
    private let count: UInt64
    private let isRandom: Bool
    /// A random 32-bit word below this number makes a read.
    private let readLimit: UInt32
    private var state: UInt64
    private var cursor: UInt64 = 0
    /// With `verify`, a word for each block: generation, and the two flags. Nil without.
    private let marks: UnsafeMutablePointer<UInt32>?
    /// Blocks that were not written in this run must hold a pattern, too: the run only reads.
    private let checksAll: Bool

    static let busy: UInt32 = 1 << 31
    /// A write failed: the block may hold the old bytes or the new ones.
    static let unknown: UInt32 = 1 << 30
    static let generations: UInt32 = unknown - 1

    /// A request to be sent.
    struct Choice: BitwiseCopyable {
        let offset: UInt64
        let isWrite: Bool

        /// A flush instead of a block.
        static let flush = Choice(offset: .max, isWrite: false)
        @inline(__always) var isFlush: Bool { offset == .max }
    }

    init(_ options: BenchOptions, blocks: UInt64, index: Int) {
        blockBytes = UInt64(options.blockBytes)
        let part = blocks / UInt64(options.queues)
        let isShared = options.pattern.isRandom && !options.verify
        first = isShared ? 0 : part * UInt64(index)
        count = isShared ? blocks : part
        isRandom = options.pattern.isRandom
        let share = options.pattern == .randrw ? options.readPercent : options.pattern.reads ? 100 : 0
        readLimit = share >= 100 ? .max : UInt32(UInt64(share) << 32 / 100)
        // Every seed, also 0, begins at another number for each queue.
        state = (options.seed &+ UInt64(index) &* 0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15
        checksAll = options.verify && !options.pattern.writes
        if options.verify {
            let books = UnsafeMutablePointer<UInt32>.allocate(capacity: Int(count))
            unsafe books.initialize(repeating: 0, count: Int(count))
            unsafe marks = unsafe books
        } else {
            unsafe marks = nil
        }
    }

    func free() { unsafe marks?.deallocate() }

    /// Steps the generator: splitmix64.
    @inline(__always) private mutating func random() -> UInt64 {
        state = state &+ 0x9e37_79b9_7f4a_7c15
        var x = state
        x = (x ^ x >> 30) &* 0xbf58_476d_1ce4_e5b9
        x = (x ^ x >> 27) &* 0x94d0_49bb_1331_11eb
        return x ^ x >> 31
    }

    /// The next request. There must be more blocks than requests in flight.
    @inline(__always) mutating func next() -> Choice {
        let word = random()
        var index: UInt64
        if isRandom {
            index = word.multipliedFullWidth(by: count).high
        } else {
            index = cursor
            cursor = cursor &+ 1 == count ? 0 : cursor &+ 1
        }
        if let marks = unsafe marks {
            // One request a block at a time: what a read returns beside a write is not defined.
            while unsafe marks[Int(index)] & Self.busy != 0 { index = index &+ 1 == count ? 0 : index &+ 1 }
            unsafe marks[Int(index)] |= Self.busy
        }
        let isRead = readLimit == .max || UInt32(truncatingIfNeeded: word) < readLimit
        return Choice(offset: (first &+ index) &* blockBytes, isWrite: !isRead)
    }

    // MARK: what blocks hold

    @inline(__always) var verifies: Bool { unsafe marks != nil }

    private func mark(_ offset: UInt64) -> UnsafeMutablePointer<UInt32>? {
        unsafe marks.map { unsafe $0 + Int(offset / blockBytes &- first) }
    }

    /// The generation that the next write of this block has.
    func nextGeneration(_ offset: UInt64) -> UInt32 {
        guard let mark = unsafe mark(offset) else { return 0 }
        let now = unsafe mark.pointee & Self.generations
        return now == Self.generations ? 1 : now + 1
    }

    func wrote(_ offset: UInt64, isOK: Bool) {
        guard let mark = unsafe mark(offset) else { return }
        unsafe mark.pointee = nextGeneration(offset) | (isOK ? 0 : Self.unknown)
    }

    /// What a read must have returned.
    enum Expectation { case nothing, generation(UInt32), anyGeneration }

    func read(_ offset: UInt64) -> Expectation {
        guard let mark = unsafe mark(offset) else { return .nothing }
        unsafe mark.pointee &= ~Self.busy
        if unsafe mark.pointee & Self.unknown != 0 { return .nothing }
        if unsafe mark.pointee != 0 { return unsafe .generation(mark.pointee) }
        return checksAll ? .anyGeneration : .nothing
    }

    /// The first written block at or behind number `index` of this queue, to be read back: its number and its offset in
    /// bytes.
    func written(from index: UInt64) -> (index: UInt64, offset: UInt64)? {
        guard let marks = unsafe marks else { return nil }
        var at = index
        while at < count {
            if unsafe marks[Int(at)] & Self.generations != 0, unsafe marks[Int(at)] & Self.unknown == 0 {
                return (at, (first &+ at) &* blockBytes)
            }
            at += 1
        }
        return nil
    }
}
