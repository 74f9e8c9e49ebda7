// What a run measured, as numbers; the command prints them.

/// The result of a run. Counts are over all queues.
public struct BenchReport: Sendable {
    /// What was driven: `vhost-user, split ring`, `raw file`, and so on.
    public var way = ""
    /// What was asked for.
    public var options = BenchOptions()
    /// Bytes that were worked on.
    public var size: UInt64 = 0
    /// Seconds from the first request to the last answer.
    public var seconds = 0.0
    /// Reads that were answered, also with an error.
    public var reads: UInt64 = 0
    /// Writes that were answered, also with an error.
    public var writes: UInt64 = 0
    /// Flushes of `--flush-every`; they do not count as requests.
    public var flushes: UInt64 = 0
    /// Requests that failed.
    public var errors: UInt64 = 0
    /// Offset of the first request that failed, in bytes.
    public var firstError: UInt64 = 0
    /// The errno of the last request that failed.
    public var lastError: Int32 = 0
    /// Reads whose bytes were checked.
    public var checked: UInt64 = 0
    /// The first block that did not hold what was written; nil: none was found.
    public var mismatch: PatternMismatch?
    /// The user ended the run.
    public var wasInterrupted = false
    /// Latencies of all requests, in nanoseconds.
    public var latency = LatencySummary(minimum: 0, mean: 0, p50: 0, p90: 0, p99: 0, p999: 0, maximum: 0)
    /// CPU seconds of the threads that sent requests.
    public var clientCPU = 0.0
    /// CPU seconds of the server behind the socket in the same time; nil without a server, or when /proc does not say.
    public var serverCPU: Double?
    /// The server's process; nil when its CPU time is not known.
    public var serverPID: Int32?

    /// Requests that were answered.
    public var requests: UInt64 { reads + writes }
    /// Requests a second.
    public var iops: Double { seconds > 0 ? Double(requests) / seconds : 0 }
    /// MiB a second.
    public var mebibytes: Double { iops * Double(options.blockBytes) / 1_048_576 }
    /// Microseconds of the client's CPU time for a request.
    public var clientMicroseconds: Double { perRequest(clientCPU) }
    /// Microseconds of the server's CPU time for a request; nil when it is not known.
    public var serverMicroseconds: Double? { serverCPU.map(perRequest) }

    private func perRequest(_ cpu: Double) -> Double { requests > 0 ? cpu * 1e6 / Double(requests) : 0 }
}
