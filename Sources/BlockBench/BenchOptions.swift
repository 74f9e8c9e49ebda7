// What is asked of a disk, and how much of it anybody may ask for.
import DiskTypes
public import ImageChain

/// The access pattern, in fio's words.
public enum AccessPattern: String, Sendable, CaseIterable {
    case randread, randwrite, read, write, randrw

    public var isRandom: Bool { self == .randread || self == .randwrite || self == .randrw }
    public var writes: Bool { self != .randread && self != .read }
    public var reads: Bool { self != .randwrite && self != .write }
}

/// How a client of a socket learns that requests are done.
public enum WaitMode: String, Sendable, CaseIterable {
    /// It looks at the ring all the time.
    case poll
    /// It sleeps, and asks to be signalled after half of what is in flight.
    case interrupt
}

/// A run of the benchmark.
public struct BenchOptions: Sendable {
    public var pattern = AccessPattern.randread
    public var blockBytes = 4096
    public var depth = 32
    /// Queues, each with a thread and `depth` requests in flight.
    public var queues = 1
    public var seconds = 5.0
    /// Ends after this many requests, over all queues.
    public var requests: UInt64?
    /// Bytes from the start of the disk that are worked on; nil: all.
    public var size: UInt64?
    /// Share of reads in randrw, in percent.
    public var readPercent = 70
    public var seed: UInt64 = 1
    public var wait = WaitMode.poll
    /// Requests that must be done before new ones follow; nil: an eighth of the depth.
    public var batch: Int?
    /// After so many writes of a queue comes a flush, without waiting for what is in flight.
    public var flushEvery: Int?
    public var packed = false
    /// Writes carry a pattern, reads check it.
    public var verify = false
    /// Permission to overwrite what is on the disk.
    public var destroy = false
    /// How to open a file: format, locks, direct I/O.
    public var open = OpenOptions()

    public init() {}

    public static let maxDepth = 1024
    public static let maxQueues = 64
    public static let maxBlockBytes = 16 << 20
    /// Buffers of all requests together.
    public static let maxBufferBytes = 1 << 30

    /// The first thing that makes no sense, in words; nil when all does.
    public var problem: String? {
        if blockBytes < 512 || blockBytes % 512 != 0 || blockBytes > Self.maxBlockBytes {
            return "a block has 512 bytes to \(Self.maxBlockBytes >> 20) MiB, in whole sectors"
        }
        if !(1...Self.maxDepth).contains(depth) { return "the depth is 1 to \(Self.maxDepth)" }
        if !(1...Self.maxQueues).contains(queues) { return "there are 1 to \(Self.maxQueues) queues" }
        if queues * depth * blockBytes > Self.maxBufferBytes {
            return "queues, depth and block size together take more than \(Self.maxBufferBytes >> 20) MiB of buffers"
        }
        if !(seconds > 0 && seconds <= 86_400) { return "a run takes up to a day" }
        if !(0...100).contains(readPercent) { return "the share of reads is 0 to 100 percent" }
        if let flushEvery {
            if flushEvery < 1 { return "a flush follows at least one write" }
            if !pattern.writes { return "there is nothing to flush where nothing is written" }
        }
        if let batch, !(1...depth).contains(batch) { return "a batch is 1 to the depth" }
        return nil
    }

    /// How many requests must be done before new ones follow.
    var gathered: Int { batch ?? max(depth / 8, 1) }

    /// Blocks of a disk of `length` bytes that are worked on.
    func blocks(of length: UInt64) throws(ImageError) -> UInt64 {
        let bytes = min(size ?? length, length)
        if let size, size > length {
            throw ImageError(.notFound, "the disk has \(length) bytes, fewer than --size")
        }
        let count = bytes / UInt64(blockBytes)
        // Verifying, no two requests of a queue may touch one block at a time, and each queue has blocks of its own.
        let needed = UInt64(verify ? queues * depth * 2 : queues)
        guard count >= max(needed, 1) else {
            throw ImageError(
                .notFound, "\(count) blocks of \(blockBytes) bytes are too few for \(queues) queues of depth \(depth)",
                advice: "use smaller blocks, less depth or a larger disk")
        }
        guard !verify || count <= Self.maxVerifiedBlocks else {
            throw ImageError(
                .unsupported, "--verify keeps books on \(Self.maxVerifiedBlocks) blocks at most",
                advice: "use larger blocks or --size")
        }
        return count
    }
    private static let maxVerifiedBlocks: UInt64 = 1 << 28
}
