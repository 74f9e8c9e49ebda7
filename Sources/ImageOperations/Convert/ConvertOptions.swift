// Everything the caller decides about a conversion, in one value.

public import ImageChain

/// How to write an image out as another one.
public struct ConvertOptions: Sendable {
    /// How to open the source; the snapshot to read stands here, too.
    public var source = OpenOptions()
    /// Write into what is there: a file or a device that is large enough, with unknown contents.
    public var intoExisting = false
    /// With `intoExisting`: the target reads as zeros already.
    public var targetIsZero = false
    /// Runs of zeros of at least so many bytes are not written. 0 writes everything.
    public var sparse: UInt64 = 4096
    /// Threads.
    public var workers = ConvertOptions.defaultWorkers
    /// Go on behind what cannot be read; it becomes zeros.
    public var salvage = false
    /// What the qcow2 image to write is like.
    public var format = FormatOptions()
    /// Compress its clusters.
    public var compress = false
    /// Wait until the target is on its disk.
    public var flush = true
    /// Bytes of data to read in a second at most; nil: no limit.
    public var bytesPerSecond: UInt64?
    /// Stops the conversion when set: an error then.
    public var cancel = CancelFlag()

    /// A new target, with zeros left out, as many threads as processors up to four.
    public init() {}

    /// Threads, within the limits.
    var threads: Int { max(1, min(workers, Self.workerLimit)) }

    /// Most that `-m` takes, as qemu-img's.
    public static let workerLimit = 16
    /// One a processor, up to four.
    public static var defaultWorkers: Int { max(1, min(4, Workers.processors)) }
}
