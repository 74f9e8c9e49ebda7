// What the engine remembers about one movement of bytes between a file and memory.

/// One transfer on its way, or one wait for a cluster that is being decoded, on behalf of a request.
@safe struct Transfer: Linked {
    typealias Index = TransferIndex

    enum Kind: UInt8, BitwiseCopyable {
        /// Straight into (or out of) one range of the caller's memory.
        case plain
        /// Straight into several ranges.
        case vector
        /// Through an aligned bounce buffer: the caller's memory or the range does not suit O_DIRECT.
        case bounce
        /// No read of its own: waits for a cluster that is being read and decoded.
        case cluster
        /// One transfer for several requests in a row, the requests linked from the transfer's own.
        case merged
        /// fallocate: zeros or a hole, no memory.
        case allocation
        /// Zeros written out, where fallocate cannot make them.
        case zeros
        /// From the buffer of a write that allocates.
        case buffered
    }

    var request = RequestIndex.none
    /// Link in the free list, in the queue of unsent reads, or among a cluster's waiters.
    var next = TransferIndex.none
    var kind: Kind = .plain
    var file: UInt16 = 0
    /// Bounce buffer, when there is one.
    var bounce = BounceIndex.none
    /// Own list of ranges, when there is one.
    var list = ListIndex.none
    /// The allocating write that it is of, if it is.
    var allocation = AllocationIndex.none
    /// `.buffered` only.
    var buffer: UnsafeMutableRawPointer?
    /// `.allocation` only: fallocate's mode.
    var mode: Int32 = 0
    /// How often this read was sent again without any progress.
    var retries: UInt32 = 0
    /// Where in the request the next byte goes.
    var at: Int = 0
    /// Bytes still to come.
    var left: Int = 0
    /// Where in the file the next byte is; inside its cluster for `.cluster`.
    var host: UInt64 = 0
    /// Bounce only: bytes already in the buffer, counted from `host` rounded down.
    var got: Int = 0

    init() {}
}
