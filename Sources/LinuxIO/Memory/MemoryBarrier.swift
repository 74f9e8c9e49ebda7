// A thread that looks seldom can pay for the order of stores of those that store all the time.
import CQblk

/// membarrier(2).
public enum MemoryBarrier {
    /// When it returns, every thread of the process has passed a full memory barrier.
    public static func process() { _ = qb_membarrier() }
}
