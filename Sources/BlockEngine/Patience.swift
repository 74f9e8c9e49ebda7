// Why this file exists: a worker that sleeps until something happens pays for being woken, and so does the request that
// wakes it. Looking a little longer before going to sleep saves that, as long as it lately paid off.
import Glibc

/// How long a worker looks for work before it sleeps. Learns like QEMU's event loop does.
public struct Patience: BitwiseCopyable, Sendable {
    /// Nanoseconds to look; 0: sleep at once.
    public private(set) var window: Int64 = 0
    private var began: Int64 = 0
    private var until: Int64 = 0
    private var looked = false
    public static let first: Int64 = 4_000
    private let limit: Int64

    /// `limit`: the longest look, in nanoseconds.
    public init(limit: Int64) { self.limit = limit }

    /// Looking begins.
    public mutating func starts() {
        began = Self.now()
        until = began &+ window
        looked = true
    }

    /// Whether to go on looking.
    public func lasts() -> Bool { Self.now() < until }

    /// The wait is over: was it worth looking, or would it have been?
    public mutating func woke() {
        guard looked else { return }
        looked = false
        adjust(waited: Self.now() &- began)
    }

    public mutating func adjust(waited: Int64) {
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
