// What threads, mailboxes and signals promise each other.
import Glibc
import LinuxIO
import Synchronization
import SystemPackage
import Testing

private struct Summing: ThreadWork, ~Copyable {
    let box: Mailbox<Int>
    let sum: Shared
    let ring: Bool

    consuming func run() {
        // Waits as a worker does: with a ring that polls the mailbox.
        guard let ring = try? Ring(entries: 4) else { return }
        var last = false
        while !last {
            _ = ring.preparePollAdd(fd: box.fd, events: UInt32(POLLIN), userData: 1)
            ring.submitAndWait(1)
            ring.drain { _, _ in }
            for message in box.take() {
                if message < 0 { last = true } else { sum.value.withLock { $0 += message } }
            }
        }
        sum.mask.withLock { $0 = blockedSignals() }
        sum.name.withLock { $0 = threadName() }
    }
}

private final class Shared: Sendable {
    let value = Mutex(0)
    let mask = Mutex<[Int32]>([])
    let name = Mutex("")
}

private func blockedSignals() -> [Int32] {
    var set = sigset_t()
    pthread_sigmask(SIG_BLOCK, nil, &set)
    return [SIGTERM, SIGINT, SIGCHLD].filter { sigismember(&set, $0) == 1 }
}

private func threadName() -> String {
    ((try? Filesystem.read("/proc/thread-self/comm")) ?? "").split(separator: "\n").first.map(String.init) ?? ""
}

/// Whether this process has the capability with this number.
private func hasCapability(_ number: Int) -> Bool {
    let status = Filesystem.readIfThere("/proc/self/status") ?? ""
    for line in status.split(separator: "\n") where line.hasPrefix("CapEff:") {
        return (UInt64(line.dropFirst(7).filter { $0 != "\t" }, radix: 16) ?? 0) >> UInt64(number) & 1 == 1
    }
    return false
}

struct ThreadTests {
    @Test func aWorkerGetsEveryMessageAndNoSignals() throws {
        let box = try Mailbox<Int>()
        let shared = Shared()
        let worker = try WorkerThread.start("a-long-worker-name", Summing(box: box, sum: shared, ring: true))
        for i in 1...1000 { box.post(i) }
        box.post(-1)
        worker.join()
        #expect(shared.value.withLock { $0 } == 500_500)
        #expect(shared.mask.withLock { $0 } == [SIGTERM, SIGINT, SIGCHLD])
        #expect(shared.name.withLock { $0 } == "a-long-worker-n")
    }

    @Test func anEventCountsAndResets() throws {
        let event = try EventFD()
        #expect(event.take() == 0)
        event.signal()
        event.signal()
        #expect(event.take() == 2)
        #expect(event.take() == 0)
    }

    @Test func aBlockedSignalArrivesAsAMessage() throws {
        // Sent to this thread alone: the test's other threads have not blocked it.
        let signals = try SignalFD([SIGUSR1])
        #expect(signals.next() == nil)
        #expect(pthread_kill(pthread_self(), SIGUSR1) == 0)
        let got = signals.next()
        #expect(got?.signal == SIGUSR1 && got?.sender == getpid())
    }

    @Test(.enabled(if: hasCapability(24), "needs CAP_SYS_RESOURCE")) func theKernelTakesOurPromises() throws {
        try ThreadFlags.markAsIOFlusher()
        let before = Filesystem.readIfThere("/proc/self/oom_score_adj")
        #expect(ThreadFlags.protectFromOOM())
        #expect(Filesystem.readIfThere("/proc/self/oom_score_adj") == "-1000\n")
        try Filesystem.write("/proc/self/oom_score_adj", before ?? "0")
    }

    @Test(.enabled(if: !hasCapability(24), "has CAP_SYS_RESOURCE")) func promisesWithoutPermissionAreErrors() {
        #expect(throws: Errno.notPermitted) { try ThreadFlags.markAsIOFlusher() }
    }

    @Test func aDuplicateOutlivesItsOriginal() throws {
        let scratch = try Scratch()
        let first = OwnedFD(taking: open(try scratch.file("a", [42]), O_RDONLY | O_CLOEXEC))
        let second = try first.duplicate()
        let number = first.raw
        try first.close()
        #expect(fcntl(number, F_GETFD) == -1 || number != second.raw)
        var byte: UInt8 = 0
        #expect(read(second.raw, &byte, 1) == 1 && byte == 42)
        #expect(fcntl(second.raw, F_GETFD) & FD_CLOEXEC != 0)
    }
}
