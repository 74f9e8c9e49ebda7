// Servers and supervisors end by themselves when they are asked to; one that is stuck must not keep a disk's record.
import Glibc
import LinuxIO
import SystemPackage

/// Ends processes that belong to a disk.
enum ProcessTermination {
    /// Asks a process to end, and ends it when it does not within `timeout` milliseconds.
    static func end(_ process: ProcessIdentity, timeout: Int32) {
        do throws(Errno) {
            try process.kill(SIGTERM)
            if try process.waitForEnd(milliseconds: timeout) { return }
            try process.kill(SIGKILL)
            _ = try process.waitForEnd(milliseconds: 5_000)
        } catch {
            // Gone already, or not ours to end: nothing more that could be done.
        }
    }
}
