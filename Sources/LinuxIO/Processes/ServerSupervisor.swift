// A disk stays up whatever happens to the process that serves it: another process starts the server again when it dies.
// What the supervisors of maps and of disks in VMs have in common is here: waiting, signals, the server's end, restarts.
import Glibc
package import SystemPackage

/// A disk whose server is supervised. All calls come from the thread that runs the supervisor.
package protocol SupervisedDisk: AnyObject {
    /// The server, from its start until `serverEnded` was called.
    var process: ChildProcess? { get }
    /// What is waited for besides signals: descriptors that become readable; -1 for one that is not there now.
    var awaited: [Int32] { get }

    /// Called after each wait. `isReady`: of each descriptor in `awaited`.
    func handle(_ isReady: [Bool])
    /// A signal came that does not mean "stop": SIGHUP, or one of those that the supervisor was made with.
    func handle(signal: Int32)
    /// The server ended and is reaped. True: it is to be followed by another.
    func serverEnded(_ end: ChildProcess.End) -> Bool
    /// Another server will be started in `pause` milliseconds: the last one ended so.
    func willRestart(in pause: Int64, after end: ChildProcess.End)
    /// Starts another server, and says why where that fails. Without a `process` afterwards, it is asked again later.
    func restartServer()
}

/// Waits for what happens to a disk and its server, and starts the server again. Confined to one thread.
package final class ServerSupervisor {
    /// SIGTERM or SIGINT came. The disk's owner may take it back, if the disk has to stay.
    package var stopWanted = false
    private let signals: SignalFD
    private var backoff = RestartBackoff()
    /// When to start the next server; nil: none is due. Monotonic milliseconds.
    private var restartAt: Int64?

    /// Takes in SIGTERM, SIGINT, SIGHUP, SIGCHLD and `others` from now on, for this thread and those that it starts.
    package init(signals others: [Int32] = []) throws(Errno) {
        SignalFD.ignoreBrokenPipes()
        signals = try SignalFD([SIGTERM, SIGINT, SIGHUP, SIGCHLD] + others)
    }

    /// To be called when a server is about to be started.
    package func serverStarts() { backoff.start(at: MonotonicClock.milliseconds()) }

    /// Waits up to `milliseconds` (-1: for ever) for one thing to happen and has `disk` deal with it. Starts no server.
    package func step(_ disk: some SupervisedDisk, milliseconds: Int64) {
        let waits = [signals.raw] + disk.awaited
        var entries = waits.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        unsafe poll(&entries, nfds_t(entries.count), Int32(clamping: timeout(milliseconds)))
        disk.handle(entries.dropFirst().map { $0.revents != 0 })
        while let next = signals.next() {
            switch next.signal {
            case SIGTERM, SIGINT: stopWanted = true
            case SIGCHLD: break
            default: disk.handle(signal: next.signal)
            }
        }
        reap(disk)
    }

    /// As `step`, and starts the next server when that is due.
    package func watch(_ disk: some SupervisedDisk, milliseconds: Int64) {
        step(disk, milliseconds: milliseconds)
        guard let due = restartAt, MonotonicClock.milliseconds() >= due else { return }
        restartAt = nil
        disk.restartServer()
        if disk.process == nil, restartAt == nil { planRestart() }
    }

    /// Steps until `done`, at most `milliseconds` a step. False: it did not come true within `seconds`, or `isHopeless`.
    package func wait(
        _ disk: some SupervisedDisk, until done: () -> Bool, orElse isHopeless: () -> Bool, seconds: Int64,
        step milliseconds: Int64
    ) -> Bool {
        let end = MonotonicClock.milliseconds() + seconds * 1000
        while !done() {
            guard MonotonicClock.milliseconds() < end else { return false }
            step(disk, milliseconds: milliseconds)
            if isHopeless() { return false }
        }
        return true
    }

    private func timeout(_ milliseconds: Int64) -> Int64 {
        guard let restartAt else { return milliseconds }
        let left = max(restartAt - MonotonicClock.milliseconds(), 0)
        return milliseconds < 0 ? left : min(milliseconds, left)
    }

    private func reap(_ disk: some SupervisedDisk) {
        guard let process = disk.process else { return }
        let end: ChildProcess.End?
        do throws(Errno) { end = try process.poll() } catch { end = .exited(255) }
        guard let end, disk.serverEnded(end) else { return }
        disk.willRestart(in: planRestart(), after: end)
    }

    /// Milliseconds until the next server.
    @discardableResult private func planRestart() -> Int64 {
        let now = MonotonicClock.milliseconds()
        let pause = backoff.death(at: now)
        restartAt = now + pause
        return pause
    }
}
