// Why this file exists: a worker that sleeps until something happens pays for being woken, and so does the request that
// wakes it. Looking a little longer before going to sleep saves that, as long as it lately paid off.
import LinuxIO

/// How long a worker looks for work before it sleeps.
///
/// Learns as QEMU's event loop does, with one thing more: how long a sleep took says little about how soon the work
/// came, because it contains the waking up, on a virtual machine more than all the rest. So a worker that has lost its
/// patience looks again in full now and then, ever more seldom while that is in vain.
public struct Patience: BitwiseCopyable, Sendable {
    /// Nanoseconds to look; 0: sleep at once, unless it is time for a trial.
    public private(set) var window: Int64 = 0
    private var began: Int64 = 0
    private(set) var lookEnd: Int64 = 0
    private var looked = false
    private var isTrial = false
    /// Sleeps until the next trial, and how many there are between trials.
    private var untilTrial = 1
    private var trialGap = 1
    public static let first: Int64 = 4_000
    /// Trials in vain cost at most one full look for so many sleeps.
    static let longestGap = 1024
    private let limit: Int64

    /// `limit`: the longest look, in nanoseconds.
    public init(limit: Int64) { self.limit = limit }

    /// Looking begins.
    public mutating func starts() { starts(at: MonotonicClock.nanoseconds()) }

    /// Whether to go on looking.
    public func lasts() -> Bool { MonotonicClock.nanoseconds() < lookEnd }

    /// Looking found something.
    public mutating func found() {
        if isTrial {
            window = limit
            trialGap = 1
        }
        looked = false
        isTrial = false
    }

    /// Looking was in vain, and the sleep that followed is over.
    public mutating func slept() { slept(until: MonotonicClock.nanoseconds()) }

    mutating func starts(at now: Int64) {
        began = now
        looked = true
        if window == 0 {
            untilTrial -= 1
            isTrial = untilTrial <= 0
        }
        lookEnd = began &+ (isTrial ? limit : window)
    }

    mutating func slept(until now: Int64) {
        guard looked else { return }
        looked = false
        let waited = now &- began
        if isTrial {
            isTrial = false
            trialGap = min(trialGap * 2, Self.longestGap)
            untilTrial = trialGap
        } else if waited > limit {
            guard window > 0 else { return }
            window /= 2
            if window < Self.first {
                window = 0
                untilTrial = trialGap
            }
        } else if waited > window {
            window = min(max(window &* 2, Self.first), limit)
        }
    }
}
