// Reports a wait that lasts longer than a second, by a thread of its own: the waiting thread may be in a system call.
// Without it a command would be silent for minutes, as if it were stuck.
import Glibc
import LinuxIO
import SystemPackage

/// Reports what is being waited for, if it takes long.
struct WaitNotice: ThreadWork {
    /// Milliseconds of waiting that are not reported.
    private static let delay: Int32 = 1000

    /// Asked for when it is said: what is waited for may have changed since the wait began.
    private let text: @Sendable () -> String
    private let notice: @Sendable (String) -> Void
    private let done: Mailbox<Bool>

    /// Runs `body`, and calls `notice` with `text` when that takes more than a second.
    @discardableResult
    static func during<Result, Failure: Error>(
        _ text: @autoclosure @escaping @Sendable () -> String, _ notice: @escaping @Sendable (String) -> Void,
        _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let done = start(text, notice)
        defer { done?.post(true) }
        return try body()
    }

    /// Nil when there is no thread: then the wait is not reported.
    private static func start(
        _ text: @escaping @Sendable () -> String, _ notice: @escaping @Sendable (String) -> Void
    ) -> Mailbox<Bool>? {
        do throws(Errno) {
            let done: Mailbox<Bool> = try Mailbox()
            _ = try WorkerThread.start("qblk-wait", WaitNotice(text: text, notice: notice, done: done))
            return done
        } catch { return nil }
    }

    consuming func run() {
        let end = MonotonicClock.milliseconds() + Int64(Self.delay)
        while MonotonicClock.milliseconds() < end {
            var entry = pollfd(fd: done.fd, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&entry, 1, Int32(clamping: end - MonotonicClock.milliseconds())) > 0 { return }
        }
        notice(text())
    }
}
