// Asking the kernel whether pages are in memory (mincore) costs as much as moving them. In an image that was just
// created most ranges are holes, and the answer is no each time; so after a no the engine asks less often.

/// Decides whether to ask the kernel again. After a no it skips 1, 3, 7, ... up to 63 questions; a yes resets that.
struct ResidencyProbeBackoff: BitwiseCopyable {
    /// Questions to skip before the next one is asked.
    private var left: UInt32 = 0
    /// Questions skipped after the last no.
    private var gap: UInt32 = 0
    static let longestGap: UInt32 = 63

    /// Whether to ask now. Counts a question that is not asked.
    @inline(__always) mutating func shouldProbe() -> Bool {
        if left == 0 { return true }
        left &-= 1
        return false
    }

    /// Takes in the kernel's answer to a question that was asked.
    @inline(__always) mutating func record(_ found: Bool) {
        gap = found ? 0 : min(gap &* 2 &+ 1, ResidencyProbeBackoff.longestGap)
        left = gap
    }
}
