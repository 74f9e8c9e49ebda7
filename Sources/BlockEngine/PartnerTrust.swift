// Why this file exists: a second thread helps only where it has a processor of its own, and nobody tells when it has none.
// What it did last tells.
import LinuxIO

/// Whether a partner is worth asking. One that comes late, or is stopped with a piece in its hands, is left alone for a
/// while, the longer the more often that happens.
struct PartnerTrust: BitwiseCopyable {
    private var until: Int64 = 0
    private var pause = PartnerTrust.shortest
    private var misses = 0
    /// Transfers in a row in which it did nothing.
    static let patience = 4
    /// Nanoseconds to wait for it: a piece takes a fiftieth of that.
    static let tooLong: Int64 = 1_000_000
    static let shortest: Int64 = 10_000_000
    static let longest: Int64 = 2_000_000_000

    func isGiven(at now: Int64) -> Bool { until == 0 || now >= until }

    /// A transfer is over, of which it moved `pieces`; the end had to wait for it for `waited` nanoseconds.
    mutating func saw(_ pieces: Int, waited: Int64, at now: Int64) {
        if pieces > 0, waited < PartnerTrust.tooLong {
            self = PartnerTrust()
            return
        }
        misses += 1
        guard waited >= PartnerTrust.tooLong || misses >= PartnerTrust.patience else { return }
        until = now &+ pause
        pause = min(pause * 2, PartnerTrust.longest)
        misses = 0
    }
}
