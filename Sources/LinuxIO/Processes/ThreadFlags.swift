// A process that serves a block device must not wait for that device. If it runs out of memory, the kernel may want
// to write dirty pages to it first: hence these promises to the kernel.
import CQblk
import Glibc
public import SystemPackage

/// What a server of block devices asks of the kernel for itself.
public enum ThreadFlags {
    /// This thread and those it starts allocate without write-back to a file system (needs CAP_SYS_RESOURCE).
    public static func markAsIOFlusher() throws(Errno) { try check(qb_set_io_flusher()) }

    /// Keeps the process's memory, also future, from being swapped once it was touched.
    public static func lockMemory() throws(Errno) {
        try check(mlockall(Int32(QB_MCL_CURRENT | QB_MCL_FUTURE | QB_MCL_ONFAULT)))
    }

    /// Asks not to be killed when memory runs out. False where that is not permitted.
    @discardableResult public static func protectFromOOM() -> Bool {
        let fd = unsafe open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
        guard fd >= 0 else { return false }
        defer { close(fd) }
        return unsafe write(fd, "-1000", 5) == 5
    }

    /// Names the calling thread for ps and debuggers; longer names are cut.
    public static func setThreadName(_ name: String) {
        _ = unsafe qb_set_thread_name(String(decoding: Array(name.utf8.prefix(15)), as: UTF8.self))
    }

    /// Keeps the calling thread off the processors of its `count - 1` siblings, within what it may use now: each gets
    /// every `count`-th processor. Nothing where there are fewer processors than siblings.
    public static func spread(_ index: Int, of count: Int) {
        _ = qb_spread_thread(Int32(truncatingIfNeeded: index), Int32(truncatingIfNeeded: count))
    }

    /// Processors that the calling thread may use.
    public static var processors: Int { Int(qb_processors()) }
}
