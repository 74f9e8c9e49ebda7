// Workers are threads, not tasks: each owns a ring, and the kernel ties a ring to its thread. `sending` proves at
// compile time that nothing is shared with the starter by accident.
import CQblk
import Glibc
public import SystemPackage

/// What a thread does, and all that it owns while doing it.
public protocol ThreadWork: ~Copyable {
    consuming func run()
}

/// A running thread with all signals blocked, but for those that say that the thread itself did wrong. Dropped without `join`, it goes on by itself.
public struct WorkerThread: ~Copyable, Sendable {
    private let thread: pthread_t

    /// Starts a thread called `name` (15 bytes are shown) that runs `work` and ends.
    public static func start<Work: ThreadWork & ~Copyable>(
        _ name: String, _ work: consuming sending Work
    ) throws(Errno) -> WorkerThread {
        var all = sigset_t()
        var before = sigset_t()
        unsafe sigfillset(&all)
        // Blocked, they would kill the process whatever handler it has.
        for own in [SIGBUS, SIGSEGV, SIGILL, SIGFPE] { unsafe sigdelset(&all, own) }
        unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
        defer { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }
        let box = unsafe Unmanaged<AnyWork>.passRetained(WorkBox(name, work)).toOpaque()
        var thread = pthread_t()
        let result = unsafe pthread_create(
            &thread, nil,
            { box in
                if let box = unsafe box { unsafe Unmanaged<AnyWork>.fromOpaque(box).takeRetainedValue().run() }
                return nil
            }, unsafe box)
        if result != 0 {
            unsafe Unmanaged<AnyWork>.fromOpaque(box).release()
            throw Errno(rawValue: result)
        }
        return WorkerThread(thread: thread)
    }

    private init(thread: pthread_t) { self.thread = thread }

    deinit { pthread_detach(thread) }

    /// Waits for the thread's end.
    public consuming func join() {
        let thread = thread
        discard self
        pthread_join(thread, nil)
    }
}

/// A closure cannot consume what it captures; a box can.
private class AnyWork {
    func run() {}
}

private final class WorkBox<Work: ThreadWork & ~Copyable>: AnyWork {
    private var work: Work?
    private let name: String

    init(_ name: String, _ work: consuming Work) {
        self.name = name
        self.work = consume work
    }

    override func run() {
        ThreadFlags.setThreadName(name)
        guard let work = work.take() else { return }
        work.run()
    }
}
