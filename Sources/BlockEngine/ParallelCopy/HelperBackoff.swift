// A second thread helps only where it has a processor of its own, and no call tells whether it has one. What it did in the
// last copies tells.
import LinuxIO

/// Decides whether to share a copy with the helper. A helper that moved nothing four times in a row, or that kept the
/// worker waiting for 1 ms, is not asked for 10 ms; the pause doubles, up to 2 s, until it helps again.
struct HelperBackoff: BitwiseCopyable {
    /// When the helper is asked again, in nanoseconds; 0: now.
    private var until: Int64 = 0
    private var pause = HelperBackoff.shortest
    private var misses = 0
    /// Copies in a row in which the helper moved nothing, after which it is not asked.
    static let missLimit = 4
    /// Nanoseconds that the worker may wait for the helper's last chunk: fifty times what a chunk takes.
    static let tooLong: Int64 = 1_000_000
    static let shortest: Int64 = 10_000_000
    static let longest: Int64 = 2_000_000_000

    /// Whether to share a copy that begins at `now`.
    func shouldShare(at now: Int64) -> Bool { until == 0 || now >= until }

    /// A copy is over: the helper moved `chunks` of it, and the worker waited for its end for `waited` nanoseconds.
    mutating func record(_ chunks: Int, waited: Int64, at now: Int64) {
        if chunks > 0, waited < HelperBackoff.tooLong {
            self = HelperBackoff()
            return
        }
        misses += 1
        guard waited >= HelperBackoff.tooLong || misses >= HelperBackoff.missLimit else { return }
        until = now &+ pause
        pause = min(pause * 2, HelperBackoff.longest)
        misses = 0
    }
}
