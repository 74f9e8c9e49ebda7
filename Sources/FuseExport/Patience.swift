// Why this file exists: when one image read is under way and nothing else, a worker that sleeps until it ends pays for
// being woken, and so does its request. Looking a little longer before going to sleep saves that, as long as it lately
// paid off.
import Glibc

/// How long a worker looks for the end of a read before it sleeps. Learns like QEMU's event loop does.
struct Patience {
    /// Nanoseconds to look; 0: sleep at once.
    private(set) var window: Int64 = 0
    private var began: Int64 = 0
    private var until: Int64 = 0
    private var looked = false
    static let first: Int64 = 4_000
    private let limit: Int64

    init(limit: Int64) { self.limit = limit }

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
        if waited > limit {
            window /= 2
            if window < Self.first { window = 0 }
        } else {
            window = min(max(window &* 2, Self.first), limit)
        }
    }

    private static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
    }
}
