// All queues begin at the same moment and no preparation is measured; afterwards each reads back what it wrote, once
// the server's time has been taken.
import DiskTypes
import Glibc
import LinuxIO
import Synchronization

/// Where the threads of a run meet.
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

    // MARK: of a thread

    /// Says that this thread is ready for `next`, and sleeps until all are; when to stop measuring.
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

    // MARK: of the one who started them

    /// Waits until `count` threads have arrived, looking now and then after the other side and the user.
    func awaitAll(_ count: Int, _ watch: BenchWatch) {
        watch.look(while: { arrived.load(ordering: .acquiring) < count }, self)
        arrived.store(0, ordering: .relaxed)
    }
    /// Waits until `count` threads have nothing left to do, their queues included.
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

/// A thread in a list; an array takes no values with one owner.
final class StartedThread {
    private var thread: WorkerThread?
    init(_ thread: consuming WorkerThread) { self.thread = consume thread }
    func join() { if let thread = thread.take() { thread.join() } }
}

/// What the main thread looks at while others work.
struct BenchWatch {
    /// The user wants an end.
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

/// A queue's thread.
struct BenchThread: ThreadWork, ~Copyable {
    let way: BenchTransport
    let options: BenchOptions
    let blocks: UInt64
    let index: Int
    /// Requests of this queue.
    let limit: UInt64
    let gate: StartBarrier

    consuming func run() {
        // Here the type is known: the loop is compiled for each of the three, and asks no table whom to call.
        switch way {
        case .socket(let maker): work(maker)
        case .file(let maker): work(maker)
        case .image(let maker): work(maker)
        }
        gate.end()
    }

    /// The queue lives no longer than this.
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
