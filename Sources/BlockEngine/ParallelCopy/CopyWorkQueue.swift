// The state that the two threads of a parallel copy share: the chunks that are left, of which the worker takes the first and
// the helper the last, with one atomic word and no lock.
import Glibc
import LinuxIO
import Synchronization

/// The worker offers copies here, and the helper takes chunks of them.
@safe final class CopyWorkQueue: Sendable {
    /// The copy, written by the worker while the helper holds no chunk.
    private nonisolated(unsafe) let copy: UnsafeMutablePointer<ParallelCopy?>
    /// The chunks that are left: bits 32-63 number of the offer, bits 16-31 first chunk, bits 0-15 one past the last.
    private let free = Atomic<UInt64>(0)
    /// How many chunks the helper has ended, and whether one of them failed.
    private let ended = Atomic<Int>(0)
    private let failed = Atomic<Bool>(false)
    private let sleeps = Atomic<Bool>(false)
    private let isOver = Atomic<Bool>(false)
    private let wakeup: EventFD

    init?() {
        guard let wakeup = try? EventFD() else { return nil }
        self.wakeup = wakeup
        unsafe copy = .allocate(capacity: 1)
        unsafe copy.initialize(to: nil)
    }

    deinit { unsafe copy.deallocate() }

    // MARK: the worker

    /// Offers a copy. The last one must be withdrawn and waited for before.
    func offer(_ next: ParallelCopy) {
        unsafe copy.pointee = next
        ended.store(0, ordering: .relaxed)
        failed.store(false, ordering: .relaxed)
        let number = (free.load(ordering: .relaxed) >> 32) &+ 1
        free.store(number << 32 | UInt64(truncatingIfNeeded: next.chunkCount), ordering: .sequentiallyConsistent)
        if sleeps.load(ordering: .sequentiallyConsistent) { wakeup.signal() }
    }

    /// The first chunk that is free; nil when none is.
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

    /// Takes back the chunks that are left and returns how many the helper has taken.
    func withdraw() -> Int {
        var seen = free.load(ordering: .relaxed)
        while true {
            let end = seen & 0xffff
            let (isMine, now) = free.compareExchange(
                expected: seen, desired: seen & ~0xffff_ffff | end << 16 | end, ordering: .acquiringAndReleasing)
            if isMine { return unsafe (copy.pointee?.chunkCount ?? 0) &- Int(end) }
            seen = now
        }
    }

    /// Waits until the helper has ended `count` chunks and returns for how many nanoseconds.
    func wait(for count: Int) -> Int64 {
        guard ended.load(ordering: .acquiring) < count else { return 0 }
        let start = MonotonicClock.nanoseconds()
        var waited: Int64 = 0
        while ended.load(ordering: .acquiring) < count {
            for _ in 0..<16 { cpuRelax() }
            waited = MonotonicClock.nanoseconds() &- start
            // The helper may need this very processor.
            if waited > 50_000 { sched_yield() }
        }
        return waited
    }

    var hasFailed: Bool { failed.load(ordering: .relaxed) }

    func quit() {
        isOver.store(true, ordering: .sequentiallyConsistent)
        wakeup.signal()
    }

    // MARK: the helper

    /// Takes the last chunk that is free and moves it. False: there is none.
    func help(_ list: UnsafeMutablePointer<iovec>) -> Bool {
        let seen = free.load(ordering: .relaxed)
        let (first, end) = (seen >> 16 & 0xffff, seen & 0xffff)
        guard first < end else { return false }
        guard
            free.compareExchange(expected: seen, desired: seen &- 1, ordering: .acquiringAndReleasing).exchanged
        else { return true }
        // Now the copy stays until this chunk has ended.
        var mine = unsafe copy.pointee
        if unsafe mine?.moveBeside(Int(end) &- 1, list) != true { failed.store(true, ordering: .relaxed) }
        ended.add(1, ordering: .releasing)
        return true
    }

    /// Sleeps until there is something to do. False: never again.
    func sleep() -> Bool {
        sleeps.store(true, ordering: .sequentiallyConsistent)
        let seen = free.load(ordering: .sequentiallyConsistent)
        if seen >> 16 & 0xffff >= seen & 0xffff, !isOver.load(ordering: .sequentiallyConsistent) {
            guard (try? wakeup.wait(milliseconds: -1)) != nil else { return false }
        }
        sleeps.store(false, ordering: .relaxed)
        wakeup.take()
        return !isOver.load(ordering: .sequentiallyConsistent)
    }
}

/// What the helper's thread runs.
struct CopyHelperThread: ThreadWork, ~Copyable {
    let work: CopyWorkQueue
    let maxIovecs: Int
    let looks: Int64

    consuming func run() {
        let list = UnsafeMutablePointer<iovec>.allocate(capacity: maxIovecs)
        defer { unsafe list.deallocate() }
        repeat {
            var until = MonotonicClock.nanoseconds() &+ looks
            repeat {
                var helped = false
                while unsafe work.help(list) { helped = true }
                if helped { until = MonotonicClock.nanoseconds() &+ looks }
                for _ in 0..<8 { cpuRelax() }
            } while MonotonicClock.nanoseconds() < until
        } while work.sleep()
    }
}
