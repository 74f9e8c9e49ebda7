// Why this file exists: to ask the kernel whether pages are in memory costs as much as to move them. In an image that was
// just made most are holes, and each question is in vain.

/// Asks as long as the answer is yes; after a no ever more seldom, up to once in 64.
struct LookLuck: BitwiseCopyable {
    private var left: UInt32 = 0
    private var gap: UInt32 = 0
    static let longest: UInt32 = 63

    /// Whether to ask now.
    @inline(__always) mutating func tries() -> Bool {
        if left == 0 { return true }
        left &-= 1
        return false
    }

    @inline(__always) mutating func saw(_ found: Bool) {
        gap = found ? 0 : min(gap &* 2 &+ 1, LookLuck.longest)
        left = gap
    }
}
