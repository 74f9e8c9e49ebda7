// How SIGINT, SIGTERM and SIGHUP end a command that runs for minutes: it stops between two pieces of work, prints its
// line, and ends by that signal, so that a shell's loop around it stops, too. The second signal ends it at once.

import Glibc
import ImageOperations
import LinuxIO
import Synchronization

enum Interrupts {
    /// Read by the handler, which can use only globals. Set before the handler is.
    private static let flag = CancelFlag()
    /// The signal that came; 0: none.
    private static let received = Atomic<Int32>(0)

    /// A flag that SIGINT, SIGTERM and SIGHUP set from now on. SIGINT and SIGHUP stay ignored if they were when the
    /// program started (nohup, a shell's background).
    static func watch() -> CancelFlag {
        let flag = flag
        _ = received.load(ordering: .relaxed)
        var action = sigaction()
        unsafe action.__sigaction_handler.sa_handler = { signal in
            Interrupts.received.store(signal, ordering: .relaxed)
            Interrupts.flag.set()
        }
        action.sa_flags = Int32(bitPattern: UInt32(SA_RESETHAND))
        for signal in [SIGINT, SIGTERM, SIGHUP] where signal == SIGTERM || !SignalFD.isIgnored(signal) {
            unsafe sigaction(signal, &action, nil)
        }
        return flag
    }

    /// For a command that runs until a signal ends it: that is its regular end, with exit code 0.
    static func treatAsOrderly(_ signal: Int32) {
        _ = received.compareExchange(expected: signal, desired: 0, ordering: .relaxed)
    }

    /// Ends the process by the signal that interrupted the command; returns if none did. To be called when everything
    /// is cleaned up and printed.
    static func endBySignal() {
        var signal = received.load(ordering: .relaxed)
        // Servers handle signals as messages; SIGTERM is their regular end.
        if signal == 0, SignalFD.lastEnding == SIGINT { signal = SIGINT }
        guard signal != 0 else { return }
        Glibc.signal(signal, SIG_DFL)
        var set = sigset_t()
        unsafe sigemptyset(&set)
        unsafe sigaddset(&set, signal)
        unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
        raise(signal)
    }
}
