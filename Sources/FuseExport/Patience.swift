// Why this file exists: at depth 1 half of a request's time is two threads waking each other. Who looks a little longer
// before going to sleep saves that; who looks too long takes the processor away from those he waits for. So: look only
// after single requests, and only as long as that lately paid off.
import Glibc

/// How long a worker looks for the next request before it sleeps. Learns like QEMU's event loop does.
struct Patience {
    /// Nanoseconds to look; 0: sleep at once.
    private(set) var window: Int64 = 0
    private var began: Int64 = 0
    private var until: Int64 = 0
    private var looked = false
    /// The last wait ended with exactly one request.
    private var wasSingle = false

    static let first: Int64 = 4_000
    static let limit: Int64 = 32_000

    @inline(__always) var isWorthIt: Bool { wasSingle }

    @inline(__always) mutating func saw(_ requests: Int) {
        if requests > 0 { wasSingle = requests == 1 }
    }

    mutating func starts() {
        began = Self.now()
        until = began &+ window
        looked = true
    }

    func lasts() -> Bool { Self.now() < until }

    /// The wait is over: was it worth looking, or would it have been?
    @inline(__always) mutating func woke() {
        guard looked else { return }
        looked = false
        adjust(waited: Self.now() &- began)
    }

    mutating func adjust(waited: Int64) {
        if waited <= window { return }
        if waited > Self.limit {
            window /= 2
            if window < Self.first { window = 0 }
        } else {
            window = min(max(window &* 2, Self.first), Self.limit)
        }
    }

    private static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
    }
}
