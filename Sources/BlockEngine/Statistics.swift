// What an engine did, for people who ask why it is slow. Plain counters of one thread.

/// Counters of one engine since it was made.
public struct Statistics: Sendable, BitwiseCopyable {
    /// Writes into new clusters.
    public var allocations: UInt64 = 0
    /// Transfers by a mapping, without the ring.
    public var mapped: UInt64 = 0
    /// Long transfers that two threads shared.
    public var shared: UInt64 = 0
    /// Requests taken in.
    public var requests: UInt64 = 0
    /// Bytes of requests that went well.
    public var bytes: UInt64 = 0
    /// Requests that ended in an error.
    public var errors: UInt64 = 0
    /// Transfers of guest data that were sent to the kernel, not counting repetitions.
    public var dataTransfers: UInt64 = 0
    /// Requests that shared a transfer with a neighbour.
    public var merged: UInt64 = 0
    /// Flushes of the file, each for any number of requests.
    public var syncs: UInt64 = 0
    /// Transfers that went through a bounce buffer.
    public var bounces: UInt64 = 0
    /// Mapping tables read.
    public var tableReads: UInt64 = 0
    /// Compressed clusters read and decoded.
    public var clustersDecoded: UInt64 = 0
    /// Parts of requests answered from a decoded cluster that was there already.
    public var cacheHits: UInt64 = 0
    /// Parts of requests that joined a cluster on its way.
    public var cacheJoins: UInt64 = 0
    /// Times a request had to wait for transfers or buffers.
    public var resourceWaits: UInt64 = 0
    /// Reads sent again: short, interrupted, or refused for now.
    public var retries: UInt64 = 0

    /// All counts 0.
    public init() {}
}
