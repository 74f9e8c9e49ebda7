// A verb that works with several threads waits for all of them, whatever happens, and is one of them itself.

import Glibc
import LinuxIO

enum Workers {
    private struct Work: ThreadWork {
        let body: @Sendable () -> Void
        consuming func run() { body() }
    }

    /// Runs `body` on `count - 1` new threads and `first` on this one; returns when all have ended. Where the system
    /// has no more threads there are fewer: slower, not wrong.
    static func run(_ count: Int, _ name: String, _ body: @Sendable @escaping () -> Void, first: () -> Void) {
        guard count > 1, let thread = try? WorkerThread.start("\(name)-\(count - 1)", Work(body: body)) else {
            first()
            return
        }
        run(count - 1, name, body, first: first)
        thread.join()
    }

    /// Processors that this process may use.
    static var processors: Int { sysconf(Int32(_SC_NPROCESSORS_ONLN)) }
}
