// The page cache takes a write in a microsecond until it has too many dirty pages; then the kernel makes the writer wait
// for the disk. A worker that waits there holds up all of its queues.
import LinuxIO

/// Notices a write that took 8 ms or more. For the next 200 ms the worker's writes go by the ring, where a thread of the
/// kernel waits instead of the worker.
struct DirtyThrottleMonitor: BitwiseCopyable {
    /// When plain calls are allowed again, in nanoseconds; 0: they are.
    private var until: Int = 0
    /// Nanoseconds.
    private static let slow = 8_000_000
    private static let pause = 200_000_000

    /// The coarse monotonic clock, in nanoseconds.
    @inline(__always) static func now() -> Int { Int(MonotonicClock.coarse()) }

    /// Whether a write may be a plain call of this thread.
    var mayCall: Bool { until == 0 || DirtyThrottleMonitor.now() > until }

    /// A call that began at `before` has just ended.
    @inline(__always) mutating func record(since before: Int) {
        let now = DirtyThrottleMonitor.now()
        until = now &- before >= DirtyThrottleMonitor.slow ? now &+ DirtyThrottleMonitor.pause : 0
    }
}
