// A mapped page that is not in memory makes the thread that touches it wait for the disk, and no call reports that. The
// kernel counts such waits for each thread as major faults; the monitor watches that count.
import Glibc
import LinuxIO

/// Notices that touches of mapped pages had to wait for a disk: memory is short, and the kernel evicts pages. Then the
/// engine leaves mappings alone for 50 ms; the pause doubles, up to 6.4 s, when it happens again within 10 s.
struct MajorFaultMonitor: BitwiseCopyable {
    enum Answer {
        /// Mapped pages may be touched.
        case calm
        /// A pause is on: no mapped page may be touched.
        case paused
        /// There were major faults since the last check; a pause begins.
        case waited
    }

    private var touches: UInt32 = 0
    /// Major faults of this thread at the last check.
    private var seen: Int
    /// When the pause ends, in nanoseconds; 0: not paused.
    private var until = 0
    /// When the last pause ended, in nanoseconds; 0: there was none.
    private var ended = 0
    private var pause = MajorFaultMonitor.shortest

    /// The count is read at every 64th touch. A power of two.
    private static let touchesBetweenChecks: UInt32 = 64
    /// Nanoseconds.
    private static let shortest = 50_000_000
    private static let longest = 6_400_000_000
    /// After so many nanoseconds without a fault the pause is the shortest again.
    private static let calm = 10_000_000_000

    init() { seen = MajorFaultMonitor.faults() }

    var isPaused: Bool { until != 0 && DirtyThrottleMonitor.now() < until }

    /// Called before each touch of a mapped page.
    @inline(__always) mutating func ask() -> Answer {
        touches &+= 1
        guard until == 0, touches & (MajorFaultMonitor.touchesBetweenChecks &- 1) != 0 else { return check() }
        return .calm
    }

    @inline(never) private mutating func check() -> Answer {
        let now = DirtyThrottleMonitor.now()
        if until != 0 {
            guard now >= until else { return .paused }
            until = 0
            ended = now
            // Faults during the pause come from other code of this thread and say nothing about mappings.
            seen = MajorFaultMonitor.faults()
            return .calm
        }
        let faults = MajorFaultMonitor.faults()
        guard faults != seen else { return .calm }
        seen = faults
        pause =
            ended != 0 && now &- ended < MajorFaultMonitor.calm
            ? min(pause &* 2, MajorFaultMonitor.longest) : MajorFaultMonitor.shortest
        until = now &+ pause
        return .waited
    }

    private static func faults() -> Int { PageFaults.ofThisThread() }
}
