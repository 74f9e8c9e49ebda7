// A pid in a file may be anybody's by the time it is read. With the start time beside it, a recycled pid is never
// mistaken for the process that was meant.
import CQblk
import Glibc
public import SystemPackage

/// One process of this boot.
public struct ProcessIdentity: Hashable, Sendable, Codable {
    /// The process id, in this pid namespace.
    public let pid: Int32
    /// In clock ticks since boot, from /proc.
    public let startTime: UInt64

    /// An identity that was recorded before.
    public init(pid: Int32, startTime: UInt64) {
        self.pid = pid
        self.startTime = startTime
    }

    /// The process that has this pid now; nil when there is none (a zombie counts as none).
    public init?(pid: Int32) {
        guard let facts = ProcessIdentity.facts(of: pid), !facts.isDead else { return nil }
        self.init(pid: pid, startTime: facts.startTime)
    }

    /// This process. Start time 0 where /proc is not to be had.
    public static var current: ProcessIdentity {
        ProcessIdentity(pid: getpid()) ?? ProcessIdentity(pid: getpid(), startTime: 0)
    }

    /// It has not ended. A zombie has.
    public var isAlive: Bool { ProcessIdentity(pid: pid) == self }

    /// Stopped by a signal or a debugger: alive, and doing nothing.
    public var isStopped: Bool {
        guard let facts = ProcessIdentity.facts(of: pid), facts.startTime == startTime else { return false }
        return facts.isStopped
    }

    /// Whether the process with that id and start time, in clock ticks since boot (proc_pid_stat(5)), is alive.
    public static func isAlive(pid: Int32, startTime: UInt64) -> Bool {
        ProcessIdentity(pid: pid, startTime: startTime).isAlive
    }

    /// A descriptor that becomes readable when the process ends; nil when it is gone.
    public func open() throws(Errno) -> OwnedFD? {
        let fd = qb_pidfd_open(pid)
        if fd < 0 {
            let error = Errno.last
            if error == .noSuchProcess { return nil }
            throw error
        }
        let owned = OwnedFD(taking: fd)
        // Looked at after opening: what the descriptor means cannot change any more.
        if isAlive { return consume owned }
        return nil
    }

    /// Sends a signal to this process and to no other; false when it is gone.
    @discardableResult public func kill(_ signal: Int32) throws(Errno) -> Bool {
        guard let target = try open() else { return false }
        if qb_pidfd_send_signal(target.raw, signal) == 0 { return true }
        let error = Errno.last
        if error == .noSuchProcess { return false }
        throw error
    }

    /// Waits up to `milliseconds` for its end (-1: for ever); whether it is gone.
    public func waitForEnd(milliseconds: Int32) throws(Errno) -> Bool {
        guard let target = try open() else { return true }
        var entry = pollfd(fd: target.raw, events: Int16(POLLIN), revents: 0)
        return try retrying { unsafe poll(&entry, 1, milliseconds) } > 0
    }

    /// State and start time. The command's name may hold anything, blanks and brackets too: read behind the last one.
    private static func facts(of pid: Int32) -> (isDead: Bool, isStopped: Bool, startTime: UInt64)? {
        guard pid > 0 else { return nil }
        guard let text = Filesystem.readIfThere("/proc/\(pid)/stat"), let bracket = text.lastIndex(of: ")")
        else { return nil }
        let fields = text[text.index(after: bracket)...].split(separator: " ")
        guard fields.count > 19, let start = UInt64(fields[19]) else { return nil }
        return (["Z", "X"].contains(fields[0]), ["T", "t"].contains(fields[0]), start)
    }
}
