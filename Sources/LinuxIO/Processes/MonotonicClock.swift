// Time for waits and pauses: it only goes forward, whatever is done to the wall clock.
import Glibc

/// CLOCK_MONOTONIC, counted from the start of the system.
public enum MonotonicClock {
    /// Nanoseconds.
    @inline(__always) public static func nanoseconds() -> Int64 { read(CLOCK_MONOTONIC) }
    /// Nanoseconds, to the tick of a few milliseconds: cheap.
    @inline(__always) public static func coarse() -> Int64 { read(CLOCK_MONOTONIC_COARSE) }
    /// Milliseconds.
    public static func milliseconds() -> Int64 { nanoseconds() / 1_000_000 }

    @inline(__always) private static func read(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        unsafe clock_gettime(clock, &time)
        return Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
    }
}
