// A percentile that is wrong looks like any other number.
import Testing
@testable import BlockBench

struct HistogramTests {
    @Test func everyValueLiesInItsBucketToAThirtySecond() {
        for shift in 0..<64 {
            let one: UInt64 = 1
            let values: [UInt64] = [one << shift, one << shift | one << (shift / 2), UInt64.max >> (63 - shift)]
            for value in values {
                let middle = LatencyHistogram.value(of: LatencyHistogram.bucket(value))
                let distance = value > middle ? value - middle : middle - value
                #expect(distance <= value / 32, "\(value) is counted as \(middle)")
            }
        }
    }
    @Test func bucketsAreInOrderAndFewEnough() {
        var last = -1
        for shift in 0..<58 {
            for value in stride(from: UInt64(32) << shift, to: UInt64(64) << shift, by: 1 << shift) {
                let bucket = LatencyHistogram.bucket(value)
                #expect(bucket > last && bucket < LatencyHistogram.buckets)
                last = bucket
            }
        }
        #expect(LatencyHistogram.bucket(.max) < LatencyHistogram.buckets)
    }
    @Test func percentilesOfAThousandValues() {
        var histogram = LatencyHistogram()
        defer { histogram.free() }
        for value in UInt64(1)...1000 { histogram.add(value * 1000) }
        let summary = histogram.summary
        #expect(summary.minimum == 1000 && summary.maximum == 1_000_000 && summary.mean == 500_500)
        #expect(abs(Int(summary.p50) - 500_000) <= 500_000 / 32)
        #expect(abs(Int(summary.p99) - 990_000) <= 990_000 / 32)
        #expect(abs(Int(summary.p999) - 999_000) <= 999_000 / 32)
    }
    @Test func twoHistogramsAddUp() {
        var first = LatencyHistogram()
        let second: LatencyHistogram = {
            var other = LatencyHistogram()
            other.add(7)
            other.add(9)
            return other
        }()
        defer {
            first.free()
            second.free()
        }
        first.add(100)
        first.add(second)
        #expect(first.count == 3 && first.sum == 116 && first.smallest == 7 && first.largest == 100)
    }
    @Test func nothingIsZero() {
        let histogram = LatencyHistogram()
        defer { histogram.free() }
        #expect(
            histogram.summary
                == LatencySummary(minimum: 0, mean: 0, p50: 0, p90: 0, p99: 0, p999: 0, maximum: 0))
    }
}
