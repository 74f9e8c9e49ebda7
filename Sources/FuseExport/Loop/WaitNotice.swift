// A command that says nothing for minutes looks as if it hangs. A wait that lasts longer than a second is told, by a
// thread of its own: the one that waits may be stuck in a system call.
import Glibc
import LinuxIO
import SystemPackage

/// Tells what is being waited for, once it lasts.
struct WaitNotice: ThreadWork {
    /// Milliseconds of waiting that need no word.
    private static let delay: Int32 = 1000

    private let text: String
    private let notice: @Sendable (String) -> Void
    private let done: Mailbox<Bool>

    /// Runs `body`, and says `text` as soon as that has taken a second.
    @discardableResult
    static func during<Result, Failure: Error>(
        _ text: String, _ notice: @escaping @Sendable (String) -> Void, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let done = start(text, notice)
        defer { done?.post(true) }
        return try body()
    }

    /// Nil where no thread can be had: then the wait is silent.
    private static func start(_ text: String, _ notice: @escaping @Sendable (String) -> Void) -> Mailbox<Bool>? {
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
            if poll(&entry, 1, Int32(clamping: end - MonotonicClock.milliseconds())) > 0 { return }
        }
        notice(text)
    }
}
