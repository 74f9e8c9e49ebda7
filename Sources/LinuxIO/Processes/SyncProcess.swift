// An fsync of a device whose server does not answer can be ended by no signal, not even SIGKILL, and the process that is in it
// cannot end either. A child makes the call; this process only waits for it, which a signal ends.
import CQblk
import Glibc
public import SystemPackage

/// fsync(2), made by a child.
public enum SyncProcess {
    /// fsync(2) of `fd` in a child process. If a signal ends this process meanwhile, the child ends with its fsync; it holds
    /// `fd` and nothing else.
    public static func sync(_ fd: Int32) throws(Errno) {
        let pid = qb_fork_sync(fd)
        if pid < 0 { throw Errno(rawValue: 0 &- pid) }
        switch try ChildProcess(pid: pid).wait() {
        case .exited(0): return
        case .exited(let error): throw Errno(rawValue: error)
        case .killed: throw .interrupted
        }
    }
}
