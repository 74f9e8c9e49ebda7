// The threads of a run, one for each queue, and the barrier by which they all begin at the same moment, so that no
// preparation is measured. Afterwards each reads back what it wrote, once the server's CPU time has been read.
import DiskTypes
import Glibc
import LinuxIO
import Synchronization

/// The barrier between the phases of a run, and where threads leave their outcomes.
final class StartBarrier: Sendable {
    enum Phase: Int { case preparing, measuring, readingBack }

    let stop = Atomic<Bool>(false)
    let gone = Atomic<Bool>(false)
    private let phase = Atomic<Int>(Phase.preparing.rawValue)
    private let arrived = Atomic<Int>(0)
    private let deadline = Atomic<UInt64>(0)
    private let trouble = Mutex<BenchError?>(nil)
    private let outcomes = Mutex<[QueueOutcome]>([])
    private let ended = Atomic<Int>(0)

    // MARK: for the threads

    /// Announces that this thread is ready for `next`, and sleeps until all are; returns when to stop measuring, in
    /// nanoseconds of `BenchClock`.
    func arrive(for next: Phase) -> UInt64 {
        arrived.add(1, ordering: .releasing)
        while phase.load(ordering: .acquiring) < next.rawValue { usleep(200) }
        return deadline.load(ordering: .relaxed)
    }
    func report(_ error: BenchError) {
        trouble.withLock { if $0 == nil { $0 = error } }
        stop.store(true, ordering: .relaxed)
    }
    func report(_ outcome: QueueOutcome) { outcomes.withLock { $0.append(outcome) } }
    func end() { ended.add(1, ordering: .releasing) }

    // MARK: for the main thread

    /// Waits until `count` threads have arrived, and looks meanwhile whether the connection or the user has ended the
    /// run.
    func awaitAll(_ count: Int, _ watch: BenchWatch) {
        watch.look(while: { arrived.load(ordering: .acquiring) < count }, self)
        arrived.store(0, ordering: .relaxed)
    }
    /// Waits until `count` threads are done, their queues freed.
    func awaitEnd(_ count: Int, _ watch: BenchWatch) {
        watch.look(while: { ended.load(ordering: .acquiring) < count }, self)
    }
    func open(_ next: Phase, until end: UInt64) {
        deadline.store(end, ordering: .relaxed)
        phase.store(next.rawValue, ordering: .releasing)
    }
    var firstTrouble: BenchError? { trouble.withLock { $0 } }
    var allOutcomes: [QueueOutcome] { outcomes.withLock { $0 } }
}

/// A thread as an element of an array, which takes no noncopyable values.
final class StartedThread {
    private var thread: WorkerThread?
    init(_ thread: consuming WorkerThread) { self.thread = consume thread }
    func join() { if let thread = thread.take() { thread.join() } }
}

/// What the main thread checks while the others work.
struct BenchWatch {
    /// The user wants the run to end.
    let isCancelled: () -> Bool
    /// The other side has closed the connection.
    let isGone: () -> Bool

    fileprivate func look(while isUnderWay: () -> Bool, _ gate: StartBarrier) {
        while isUnderWay() {
            usleep(2000)
            if isCancelled() { gate.stop.store(true, ordering: .relaxed) }
            if isGone() { gate.gone.store(true, ordering: .relaxed) }
        }
    }
}

/// The work of a queue's thread.
struct BenchThread: ThreadWork, ~Copyable {
    let way: BenchTransport
    let options: BenchOptions
    let blocks: UInt64
    let index: Int
    /// Requests that this queue may send.
    let limit: UInt64
    let gate: StartBarrier

    consuming func run() {
        // Here the type is known: the loop is compiled for each of the three, and calls no method through a table.
        switch way {
        case .socket(let maker): work(maker)
        case .file(let maker): work(maker)
        case .image(let maker): work(maker)
        }
        gate.end()
    }

    /// Makes the queue, measures, and reads back; the queue is freed at the end.
    private borrowing func work<Maker: BenchQueueMaker>(_ maker: Maker) {
        do throws(ImageError) {
            var runner = BenchRunner<Maker.Queue>(try maker.make(), options, blocks: blocks, index: index, gate)
            let deadline = gate.arrive(for: .measuring)
            let isMeasured = attempt { () throws(BenchError) in
                try runner.measure(deadline: deadline, limit: limit)
            }
            _ = gate.arrive(for: .readingBack)
            if isMeasured { _ = attempt { () throws(BenchError) in try runner.readBack() } }
            gate.report(runner.outcome)
        } catch {
            gate.report(.noQueue(error))
            _ = gate.arrive(for: .measuring)
            _ = gate.arrive(for: .readingBack)
        }
    }

    private func attempt(_ body: () throws(BenchError) -> Void) -> Bool {
        do throws(BenchError) {
            try body()
            return true
        } catch {
            gate.report(error)
            return false
        }
    }
}
