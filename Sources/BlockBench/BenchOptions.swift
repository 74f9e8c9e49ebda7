// What a run of the benchmark does with a disk, and the limits of each option: `bench` fills this in from its command
// line.
import DiskTypes
public import ImageChain

/// The access pattern; the raw values are fio's words.
public enum AccessPattern: String, Sendable, CaseIterable {
    /// Random blocks are read or written, rows of blocks are read or written, or random blocks are read and written.
    case randread, randwrite, read, write, randrw

    /// Blocks are chosen at random, else in order.
    public var isRandom: Bool { self == .randread || self == .randwrite || self == .randrw }
    /// Some requests are writes.
    public var writes: Bool { self != .randread && self != .read }
    /// Some requests are reads.
    public var reads: Bool { self != .randwrite && self != .write }
}

/// How a client of a socket learns that requests are done. The raw values are those of `--wait`.
public enum WaitMode: String, Sendable, CaseIterable {
    /// It polls the ring without a pause.
    case poll
    /// It sleeps, and asks for a signal when half of what is in flight is done.
    case interrupt
}

/// A run of the benchmark.
public struct BenchOptions: Sendable {
    /// Which blocks, and which of reads and writes.
    public var pattern = AccessPattern.randread
    /// Bytes of each request: 512 bytes to `maxBlockBytes`, in whole sectors.
    public var blockBytes = 4096
    /// Requests in flight for each queue, 1 to `maxDepth`.
    public var depth = 32
    /// Queues, each with a thread and `depth` requests in flight.
    public var queues = 1
    /// Seconds after which no new requests are sent.
    public var seconds = 5.0
    /// Requests of all queues together after which the run ends; nil: `seconds` alone ends it.
    public var requests: UInt64?
    /// Bytes from the start of the disk that are worked on; nil: all.
    public var size: UInt64?
    /// Share of reads in randrw, in percent.
    public var readPercent = 70
    /// Start of the random numbers, and part of the pattern that `verify` writes.
    public var seed: UInt64 = 1
    /// How a client of a socket waits; other targets ignore it.
    public var wait = WaitMode.poll
    /// Requests that must be done before new ones follow; nil: an eighth of the depth.
    public var batch: Int?
    /// Writes of a queue after which a flush is sent, without waiting for what is in flight; nil: none.
    public var flushEvery: Int?
    /// Packed rings, of a socket; a back-end without them is an error.
    public var packed = false
    /// Writes carry a pattern, reads check it.
    public var verify = false
    /// Permission to overwrite what is on the disk; without it, patterns that write are refused.
    public var destroy = false
    /// How to open a file: format, locks, direct I/O.
    public var open = OpenOptions()

    /// Random reads of 4 KiB for 5 seconds, one queue of depth 32.
    public init() {}

    /// The largest `depth`.
    public static let maxDepth = 1024
    /// The largest number of `queues`.
    public static let maxQueues = 64
    /// The largest `blockBytes`.
    public static let maxBlockBytes = 16 << 20
    /// Bytes of the buffers of all requests together, at most.
    public static let maxBufferBytes = 1 << 30

    /// The first option that is out of range, as a sentence; nil when none is.
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

    /// Blocks of a disk of `length` bytes that are worked on. Throws `.notFound` when they are too few for the queues,
    /// and `.unsupported` when `verify` cannot record so many.
    func blocks(of length: UInt64) throws(ImageError) -> UInt64 {
        let bytes = min(size ?? length, length)
        if let size, size > length {
            throw ImageError(.notFound, "the disk has \(length) bytes, fewer than --size")
        }
        let count = bytes / UInt64(blockBytes)
        // With `verify`, no two requests of a queue may be on one block at a time, and each queue has blocks of its
        // own.
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
