// Threads wake each other, and signals arrive, as readable descriptors: the only thing that a ring can wait for
// together with I/O.
import CQblk
import Glibc
import Synchronization
public import SystemPackage

/// A counter that makes its descriptor readable while it is not zero. Any thread may raise it, one takes it.
public struct EventFD: ~Copyable, Sendable {
    private let owned: OwnedFD
    /// The descriptor, for poll and rings. Stays this value's.
    public var raw: Int32 { owned.raw }

    /// A counter at 0. Throws where no descriptor can be had.
    public init() throws(Errno) {
        owned = OwnedFD(taking: try check(eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))))
    }

    /// Wakes the waiting threads. Never blocks; a counter that is full is as awake as can be.
    public borrowing func signal() {
        var one: UInt64 = 1
        while unsafe write(raw, &one, 8) < 0 && errno == EINTR {}
    }

    /// Whether a signal comes within `milliseconds` (-1: for ever). The count stays; `take` it.
    public borrowing func wait(milliseconds: Int32) throws(Errno) -> Bool {
        var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
        return try retrying { unsafe poll(&entry, 1, milliseconds) } > 0
    }

    /// Takes the count and resets it: 0 when no signal came.
    @discardableResult public borrowing func take() -> UInt64 {
        var count: UInt64 = 0
        while true {
            if unsafe read(raw, &count, 8) == 8 { return count }
            if errno != EINTR { return 0 }
        }
    }
}

/// Signals as messages. The set is blocked for the calling thread and for those it starts later: make this first. SIGINT
/// and SIGHUP are left out where the process ignores them: they were ignored when it started (nohup), and stay so.
public struct SignalFD: ~Copyable, Sendable {
    private let owned: OwnedFD
    /// The descriptor, readable while a signal waits. Stays this value's.
    public var raw: Int32 { owned.raw }

    /// Takes in these signals from now on. Throws where the mask cannot be set or no descriptor can be had.
    public init(_ signals: [Int32]) throws(Errno) {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for signal in signals where ![SIGINT, SIGHUP].contains(signal) || !SignalFD.isIgnored(signal) {
            unsafe sigaddset(&set, signal)
        }
        let blocked = unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        if blocked != 0 { throw Errno(rawValue: blocked) }
        owned = unsafe OwnedFD(taking: try check(signalfd(-1, &set, Int32(SFD_CLOEXEC | SFD_NONBLOCK))))
    }

    /// The next signal that came, or nil.
    public borrowing func next() -> (signal: Int32, sender: Int32)? {
        var info = signalfd_siginfo()
        while true {
            if unsafe read(raw, &info, MemoryLayout<signalfd_siginfo>.size) > 0 {
                let signal = Int32(bitPattern: info.ssi_signo)
                if [SIGINT, SIGTERM].contains(signal) { Self.ending.store(signal, ordering: .relaxed) }
                return (signal, Int32(bitPattern: info.ssi_pid))
            }
            if errno != EINTR { return nil }
        }
    }

    private static let ending = Atomic<Int32>(0)

    /// Which of SIGINT and SIGTERM this process took in last; 0: neither.
    public static var lastEnding: Int32 { ending.load(ordering: .relaxed) }

    /// Whether the process ignores `signal`.
    public static func isIgnored(_ signal: Int32) -> Bool {
        var action = sigaction()
        guard unsafe sigaction(signal, nil, &action) == 0 else { return false }
        return unsafe unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
            == unsafeBitCast(SIG_IGN, to: Int.self)
    }

    /// Makes writes to closed sockets and pipes fail with EPIPE instead of ending the process.
    public static func ignoreBrokenPipes() { signal(SIGPIPE, SIG_IGN) }
}
