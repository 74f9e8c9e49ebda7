// Why this file exists: what the two threads of a shared transfer have in common: pieces that each takes from its own end,
// with one atomic word and no lock.
import Glibc
import LinuxIO
import Synchronization

/// Where one thread offers transfers and another takes pieces of them.
final class TransferDesk: Sendable {
    /// The transfer, written by who offers it while nobody holds a piece.
    private nonisolated(unsafe) let transfer: UnsafeMutablePointer<SharedTransfer?>
    /// Pieces that nobody has taken: which offer (32 bits), the first, one past the last (16 bits each).
    private let free = Atomic<UInt64>(0)
    /// Pieces that the other thread has ended, and whether one of them went wrong.
    private let ended = Atomic<Int>(0)
    private let failed = Atomic<Bool>(false)
    private let sleeps = Atomic<Bool>(false)
    private let isOver = Atomic<Bool>(false)
    private let bell: EventFD

    init?() {
        guard let bell = try? EventFD() else { return nil }
        self.bell = bell
        transfer = .allocate(capacity: 1)
        transfer.initialize(to: nil)
    }

    deinit { transfer.deallocate() }

    // MARK: who offers

    /// Before this, the last offer was withdrawn and waited for.
    func offer(_ next: SharedTransfer) {
        transfer.pointee = next
        ended.store(0, ordering: .relaxed)
        failed.store(false, ordering: .relaxed)
        let number = (free.load(ordering: .relaxed) >> 32) &+ 1
        free.store(number << 32 | UInt64(truncatingIfNeeded: next.pieceCount), ordering: .sequentiallyConsistent)
        if sleeps.load(ordering: .sequentiallyConsistent) { bell.signal() }
    }

    /// The first piece that is free; nil when none is.
    func takeFirst() -> Int? {
        var seen = free.load(ordering: .relaxed)
        while true {
            let (first, end) = (seen >> 16 & 0xffff, seen & 0xffff)
            guard first < end else { return nil }
            let (isMine, now) = free.compareExchange(
                expected: seen, desired: seen &+ 1 << 16, ordering: .acquiringAndReleasing)
            if isMine { return Int(first) }
            seen = now
        }
    }

    /// Takes back what is left; how many pieces the other thread has taken.
    func withdraw() -> Int {
        var seen = free.load(ordering: .relaxed)
        while true {
            let end = seen & 0xffff
            let (isMine, now) = free.compareExchange(
                expected: seen, desired: seen & ~0xffff_ffff | end << 16 | end, ordering: .acquiringAndReleasing)
            if isMine { return (transfer.pointee?.pieceCount ?? 0) &- Int(end) }
            seen = now
        }
    }

    /// Waits until the other thread has ended `count` pieces; for how many nanoseconds.
    func wait(for count: Int) -> Int64 {
        guard ended.load(ordering: .acquiring) < count else { return 0 }
        let start = MonotonicClock.nanoseconds()
        var waited: Int64 = 0
        while ended.load(ordering: .acquiring) < count {
            for _ in 0..<16 { cpuRelax() }
            waited = MonotonicClock.nanoseconds() &- start
            // It may need this very processor.
            if waited > 50_000 { sched_yield() }
        }
        return waited
    }

    var hasFailed: Bool { failed.load(ordering: .relaxed) }

    func quit() {
        isOver.store(true, ordering: .sequentiallyConsistent)
        bell.signal()
    }

    // MARK: who helps

    /// Takes the last piece that is free and moves it. False: there is none.
    func help(_ list: UnsafeMutablePointer<iovec>) -> Bool {
        let seen = free.load(ordering: .relaxed)
        let (first, end) = (seen >> 16 & 0xffff, seen & 0xffff)
        guard first < end else { return false }
        guard
            free.compareExchange(expected: seen, desired: seen &- 1, ordering: .acquiringAndReleasing).exchanged
        else { return true }
        // Now the transfer stays until this piece has ended.
        var mine = transfer.pointee
        if mine?.moveBeside(Int(end) &- 1, list) != true { failed.store(true, ordering: .relaxed) }
        ended.add(1, ordering: .releasing)
        return true
    }

    /// Sleeps until there is something to do. False: never again.
    func sleep() -> Bool {
        sleeps.store(true, ordering: .sequentiallyConsistent)
        let seen = free.load(ordering: .sequentiallyConsistent)
        if seen >> 16 & 0xffff >= seen & 0xffff, !isOver.load(ordering: .sequentiallyConsistent) {
            guard (try? bell.wait(milliseconds: -1)) != nil else { return false }
        }
        sleeps.store(false, ordering: .relaxed)
        bell.take()
        return !isOver.load(ordering: .sequentiallyConsistent)
    }
}

/// The second thread.
struct PartnerLife: ThreadWork, ~Copyable {
    let desk: TransferDesk
    let maxIovecs: Int
    let looks: Int64

    consuming func run() {
        let list = UnsafeMutablePointer<iovec>.allocate(capacity: maxIovecs)
        defer { list.deallocate() }
        repeat {
            var until = MonotonicClock.nanoseconds() &+ looks
            repeat {
                var helped = false
                while desk.help(list) { helped = true }
                if helped { until = MonotonicClock.nanoseconds() &+ looks }
                for _ in 0..<8 { cpuRelax() }
            } while MonotonicClock.nanoseconds() < until
        } while desk.sleep()
    }
}
