// A worker that sleeps until something happens pays for being woken, and so does the request that wakes it. Polling for a
// little longer before it sleeps saves that, as long as polling lately found work.
import LinuxIO

/// How long a worker polls for work before it sleeps.
///
/// Learns as QEMU's event loop does, with one thing more: how long a sleep took says little about how soon the work
/// came, because it contains the waking up, on a virtual machine more than all the rest. So a worker that
/// sleeps at once polls in full now and then, after 1, 2, 4, ... up to 1024 sleeps while such trials find nothing.
public struct AdaptivePolling: BitwiseCopyable, Sendable {
    /// Nanoseconds to poll; 0: sleep at once, unless it is time for a trial.
    public private(set) var window: Int64 = 0
    private var began: Int64 = 0
    private(set) var pollEnd: Int64 = 0
    private var hasPolled = false
    private var isTrial = false
    /// Sleeps until the next trial, and how many there are between trials.
    private var untilTrial = 1
    private var trialGap = 1
    /// The shortest window, in nanoseconds.
    public static let first: Int64 = 4_000
    /// Trials that find nothing cost at most one full poll for so many sleeps.
    static let longestGap = 1024
    private let limit: Int64

    /// `limit`: the longest window, in nanoseconds.
    public init(limit: Int64) { self.limit = limit }

    /// Polling begins.
    public mutating func begin() { begin(at: MonotonicClock.nanoseconds()) }

    /// Whether to go on polling.
    public func shouldContinue() -> Bool { MonotonicClock.nanoseconds() < pollEnd }

    /// Polling found work.
    public mutating func recordHit() {
        if isTrial {
            window = limit
            trialGap = 1
        }
        hasPolled = false
        isTrial = false
    }

    /// Polling found nothing, and the sleep that followed is over.
    public mutating func recordSleep() { recordSleep(until: MonotonicClock.nanoseconds()) }

    mutating func begin(at now: Int64) {
        began = now
        hasPolled = true
        if window == 0 {
            untilTrial -= 1
            isTrial = untilTrial <= 0
        }
        pollEnd = began &+ (isTrial ? limit : window)
    }

    mutating func recordSleep(until now: Int64) {
        guard hasPolled else { return }
        hasPolled = false
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
