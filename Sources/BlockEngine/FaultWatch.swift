// Why this file exists: a mapped page that is not in memory makes its reader wait for the disk, and nobody says so. The
// kernel counts such waits; here is what to make of the count.
import Glibc
import LinuxIO

/// Sees when touches of mapped pages had to wait for a disk: memory is short, the kernel throws pages out. Then this
/// engine leaves mappings alone for a while, the longer the more often that happens.
struct FaultWatch: BitwiseCopyable {
    enum Answer { case calm, paused, waited }

    private var touches: UInt32 = 0
    private var seen: Int
    /// 0: not paused.
    private var until = 0
    private var ended = 0
    private var pause = FaultWatch.shortest

    private static let touchesBetweenLooks: UInt32 = 64
    private static let shortest = 50_000_000
    private static let longest = 6_400_000_000
    /// After so long without a fault they count as something new.
    private static let calm = 10_000_000_000

    init() { seen = FaultWatch.faults() }

    var isPaused: Bool { until != 0 && Throttle.now() < until }

    /// Before a touch.
    @inline(__always) mutating func ask() -> Answer {
        touches &+= 1
        guard until == 0, touches & (FaultWatch.touchesBetweenLooks &- 1) != 0 else { return look() }
        return .calm
    }

    @inline(never) private mutating func look() -> Answer {
        let now = Throttle.now()
        if until != 0 {
            guard now >= until else { return .paused }
            until = 0
            ended = now
            // What others of this thread waited for meanwhile is no matter of ours.
            seen = FaultWatch.faults()
            return .calm
        }
        let faults = FaultWatch.faults()
        guard faults != seen else { return .calm }
        seen = faults
        pause = ended != 0 && now &- ended < FaultWatch.calm ? min(pause &* 2, FaultWatch.longest) : FaultWatch.shortest
        until = now &+ pause
        return .waited
    }

    private static func faults() -> Int { PageFaults.ofThisThread() }
}
