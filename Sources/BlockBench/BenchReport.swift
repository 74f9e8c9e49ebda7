// What a run found, for the command to print: numbers, no text.

public struct BenchReport: Sendable {
    /// What was driven: `vhost-user, split ring`, `raw file`, ...
    public var way = ""
    public var options = BenchOptions()
    /// Bytes that were worked on.
    public var size: UInt64 = 0
    public var seconds = 0.0
    public var reads: UInt64 = 0
    public var writes: UInt64 = 0
    /// Of `--flush-every`; they are no requests.
    public var flushes: UInt64 = 0
    public var errors: UInt64 = 0
    /// Offset of the first request that failed, and the errno of the last.
    public var firstError: UInt64 = 0
    public var lastError: Int32 = 0
    /// Reads whose bytes were checked.
    public var checked: UInt64 = 0
    public var mismatch: PatternMismatch?
    public var wasInterrupted = false
    public var latency = LatencySummary(minimum: 0, mean: 0, p50: 0, p90: 0, p99: 0, p999: 0, maximum: 0)
    /// CPU seconds of the threads that sent requests.
    public var clientCPU = 0.0
    /// CPU seconds of the server behind the socket in the same time.
    public var serverCPU: Double?
    public var serverPID: Int32?

    public var requests: UInt64 { reads + writes }
    public var iops: Double { seconds > 0 ? Double(requests) / seconds : 0 }
    public var mebibytes: Double { iops * Double(options.blockBytes) / 1_048_576 }
    /// Microseconds of CPU for a request.
    public var clientMicroseconds: Double { perRequest(clientCPU) }
    public var serverMicroseconds: Double? { serverCPU.map(perRequest) }

    private func perRequest(_ cpu: Double) -> Double { requests > 0 ? cpu * 1e6 / Double(requests) : 0 }
}
