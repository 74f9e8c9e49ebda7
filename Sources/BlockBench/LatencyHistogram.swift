// Percentiles of millions of latencies without keeping each: counts in buckets whose width grows with the value (a
// thirty-second of it), in memory that is allocated before the first request.

/// Counts of latencies in nanoseconds. `free` frees it.
@safe struct LatencyHistogram: BitwiseCopyable {
    /// Buckets for each doubling.
    private static let stepBits = 5
    private static let steps = 1 << stepBits
    static let buckets = (64 - stepBits + 1) * steps

    private let counts: UnsafeMutablePointer<UInt64>
    private(set) var count: UInt64 = 0
    private(set) var sum: UInt64 = 0
    private(set) var smallest = UInt64.max
    private(set) var largest: UInt64 = 0

    init() {
        unsafe counts = .allocate(capacity: Self.buckets)
        unsafe counts.initialize(repeating: 0, count: Self.buckets)
    }

    func free() { unsafe counts.deallocate() }

    @inline(__always) static func bucket(_ value: UInt64) -> Int {
        guard value >= UInt64(steps) else { return Int(value) }
        let shift = 63 - stepBits - value.leadingZeroBitCount
        return (shift << stepBits) + Int(truncatingIfNeeded: value >> UInt64(shift))
    }

    /// The middle of a bucket.
    static func value(of bucket: Int) -> UInt64 {
        guard bucket >= 2 * steps else { return UInt64(bucket) }
        let shift = bucket >> stepBits - 1
        let low = UInt64(bucket - shift << stepBits) << UInt64(shift)
        return low + UInt64(1) << UInt64(shift) / 2
    }

    @inline(__always) mutating func add(_ value: UInt64) {
        unsafe counts[Self.bucket(value)] &+= 1
        count &+= 1
        sum &+= value
        if value < smallest { smallest = value }
        if value > largest { largest = value }
    }

    mutating func add(_ other: LatencyHistogram) {
        for i in 0..<Self.buckets { unsafe counts[i] &+= other.counts[i] }
        count &+= other.count
        sum &+= other.sum
        smallest = min(smallest, other.smallest)
        largest = max(largest, other.largest)
    }

    /// The value that `share` (0 to 1) of all latencies do not exceed, exact to a thirty-second.
    func percentile(_ share: Double) -> UInt64 {
        guard count > 0 else { return 0 }
        let wanted = max(UInt64((Double(count) * share).rounded(.up)), 1)
        var seen: UInt64 = 0
        for i in 0..<Self.buckets {
            unsafe seen &+= counts[i]
            if seen >= wanted { return min(max(Self.value(of: i), smallest), largest) }
        }
        return largest
    }

    var summary: LatencySummary {
        LatencySummary(
            minimum: count == 0 ? 0 : smallest, mean: count == 0 ? 0 : Double(sum) / Double(count),
            p50: percentile(0.5), p90: percentile(0.9), p99: percentile(0.99), p999: percentile(0.999),
            maximum: largest)
    }
}

/// The distribution of latencies, in nanoseconds; the percentiles are exact to a thirty-second. All are 0 without
/// requests.
public struct LatencySummary: Sendable, Equatable {
    /// The shortest.
    public let minimum: UInt64
    /// The mean.
    public let mean: Double
    /// The median: half of all requests took no longer.
    public let p50: UInt64
    /// 90 % of all requests took no longer.
    public let p90: UInt64
    /// 99 % of all requests took no longer.
    public let p99: UInt64
    /// 99.9 % of all requests took no longer.
    public let p999: UInt64
    /// The longest.
    public let maximum: UInt64
}
