// The only way to learn that a touch of memory had to wait for a disk is to ask the kernel afterwards.
import CQblk

/// What touching pages cost.
public enum PageFaults {
    /// How often this thread waited for a page to come from a disk.
    public static func ofThisThread() -> Int { qb_major_faults() }
}
