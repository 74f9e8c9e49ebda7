// The memory for READ's replies: aligned to pages (direct reads write to it), limited (a map must not grow with its
// load), and allocated before the first request. Buffers have three sizes, because most requests are small and some are
// a mebibyte.
import LinuxIO
import SystemPackage

/// Buffers for the data of READ replies. A buffer's number is also the slot of its request in the engine.
///
/// Each buffer has a page in front whose last 16 bytes are the reply's header, so that header and data go to the
/// kernel as one piece and the data still starts on a page.
@safe struct ReplyPool: ~Copyable {
    private static let page = 4096

    /// One size of buffer.
    @safe private struct Class {
        let capacity: Int
        let first: Int
        let base: UnsafeMutableRawPointer
        /// Stack of free buffers.
        let free: UnsafeMutablePointer<UInt16>
        var available: Int
    }

    private let memory: AlignedBuffer
    private let stacks: UnsafeMutablePointer<UInt16>
    private let classes: UnsafeMutablePointer<Class>
    private let classCount: Int
    /// Buffers of all sizes together.
    let count: Int

    /// Sizes and numbers of buffers for a worker that may use about `budget` bytes: small ones for the loop driver's
    /// whole queue; the rest of the memory is divided between readahead and the longest requests.
    static func plan(budget: Int) -> [(capacity: Int, count: Int)] {
        let rest = max(budget - 128 * (16384 + page), 0)
        let medium = min(max(rest / 4 / (131072 + page), 8), 64)
        let large = min(max((rest - medium * (131072 + page)) / (FuseLimits.maxRead + page), 4), 64)
        return [(16384, 128), (131072, medium), (FuseLimits.maxRead, large)]
    }

    init(_ plan: [(capacity: Int, count: Int)]) throws(Errno) {
        var bytes = 0
        var total = 0
        for (capacity, number) in plan {
            bytes += (capacity + Self.page) * number
            total += number
        }
        let memory = try AlignedBuffer(count: bytes)
        unsafe stacks = .allocate(capacity: total)
        unsafe classes = .allocate(capacity: plan.count)
        var first = 0
        var offset = 0
        for (i, (capacity, number)) in plan.enumerated() {
            for k in 0..<number { unsafe stacks[first + k] = UInt16(truncatingIfNeeded: first + number - 1 - k) }
            unsafe (classes + i).initialize(
                to: Class(
                    capacity: capacity, first: first, base: memory.pointer + offset, free: stacks + first,
                    available: number))
            offset += (capacity + Self.page) * number
            first += number
        }
        self.memory = memory
        classCount = plan.count
        count = total
    }

    deinit {
        unsafe stacks.deallocate()
        unsafe classes.deallocate()
    }

    /// The smallest free buffer for `length` bytes; -1 when all that are large enough are in use.
    @inline(__always) mutating func take(_ length: Int) -> Int {
        for i in 0..<classCount where unsafe classes[i].capacity >= length && classes[i].available > 0 {
            unsafe classes[i].available &-= 1
            return unsafe Int(classes[i].free[classes[i].available])
        }
        return -1
    }

    @inline(__always) mutating func give(_ buffer: Int) {
        let i = indexOfClass(buffer)
        unsafe classes[i].free[classes[i].available] = UInt16(truncatingIfNeeded: buffer)
        unsafe classes[i].available &+= 1
    }

    /// The buffer's data, page-aligned.
    @inline(__always) func data(_ buffer: Int) -> UnsafeMutableRawPointer {
        let i = indexOfClass(buffer)
        return unsafe classes[i].base + (buffer &- classes[i].first) &* (classes[i].capacity &+ Self.page) + Self.page
    }

    /// The start of the reply: its header, directly before the data.
    @inline(__always) func start(_ buffer: Int) -> UnsafeMutableRawPointer {
        unsafe data(buffer) - FuseReplies.headerSize
    }

    @inline(__always) private func indexOfClass(_ buffer: Int) -> Int {
        var i = 0
        while i &+ 1 < classCount, unsafe buffer >= classes[i &+ 1].first { i &+= 1 }
        return i
    }
}
