// The loop of one thread: choose a block, submit, collect, count. It takes no lock, allocates nothing and asks for the
// time once a batch, so that it measures the disk and not itself.
import DiskTypes
import Glibc
import Synchronization

/// What one thread has measured; times are nanoseconds. Plain bytes; the histogram's memory is freed where the outcomes
/// are summed up.
struct QueueOutcome: BitwiseCopyable {
    var reads: UInt64 = 0
    var writes: UInt64 = 0
    var flushes: UInt64 = 0
    var errors: UInt64 = 0
    var firstError: UInt64 = 0
    var lastError: Int32 = 0
    var checked: UInt64 = 0
    var began: UInt64 = 0
    var ended: UInt64 = 0
    var cpu: UInt64 = 0
    var latencies = LatencyHistogram()
}

/// Given to the main thread at the thread's end; its memory has one owner at a time.
extension QueueOutcome: @unchecked Sendable {}

/// Why a thread ended its run early.
enum BenchError: Error, Sendable {
    case mismatch(PatternMismatch)
    case breakage(String)
    /// The other side has closed the connection.
    case gone
    /// No request was answered for `seconds`.
    case silence(seconds: Int, inFlight: Int)
    case flushFailed
    case noFlush
    case noQueue(ImageError)
}

/// One thread's run on one queue.
@safe struct BenchRunner<Queue: BenchQueue>: ~Copyable {
    private var queue: Queue
    private var chooser: BlockChooser
    private let pattern: BlockPattern
    private let options: BenchOptions
    private let depth: Int
    private let gate: StartBarrier
    private(set) var outcome = QueueOutcome()

    /// Of each slot: when its request was sent (0: the slot is free), and which it is.
    private let sent: UnsafeMutablePointer<UInt64>
    private let places: UnsafeMutablePointer<BlockChooser.Choice>
    private let free: UnsafeMutablePointer<Int32>
    private var freeCount: Int
    private var mismatch: PatternMismatch?
    /// Writes that may be sent before the next flush.
    private var writesLeft: Int

    /// Seconds without any answer after which a thread gives up.
    private static var timeout: UInt64 { 30 }

    init(_ queue: Queue, _ options: BenchOptions, blocks: UInt64, index: Int, _ gate: StartBarrier) {
        self.queue = queue
        self.gate = gate
        self.options = options
        depth = options.depth
        chooser = BlockChooser(options, blocks: blocks, index: index)
        pattern = BlockPattern(seed: options.seed)
        unsafe sent = .allocate(capacity: depth)
        unsafe sent.initialize(repeating: 0, count: depth)
        unsafe places = .allocate(capacity: depth)
        unsafe places.initialize(repeating: BlockChooser.Choice(offset: 0, isWrite: false), count: depth)
        unsafe free = .allocate(capacity: depth)
        for i in 0..<depth { unsafe free[i] = Int32(depth - 1 - i) }
        freeCount = depth
        writesLeft = options.flushEvery ?? .max
    }

    deinit {
        chooser.free()
        // With requests in flight the kernel may still write there: the memory is leaked rather than used again.
        if freeCount == depth { queue.free() }
        unsafe sent.deallocate()
        unsafe places.deallocate()
        unsafe free.deallocate()
    }

    // MARK: measuring

    /// Sends requests until `deadline` or until `limit` are sent, and waits until all are answered.
    mutating func measure(deadline: UInt64, limit: UInt64) throws(BenchError) {
        let cpu = BenchClock.threadCPU()
        var now = BenchClock.now()
        outcome.began = now
        var left = limit
        let wanted = options.gathered
        while true {
            if freeCount > 0, left > 0 {
                try fillUp(&left, now)
                queue.publish()
            }
            let inFlight = depth &- freeCount
            if inFlight == 0 { break }
            var done = queue.next()
            if done.isNone {
                done = try waitForOne(inFlight, wanted, since: now)
            }
            now = BenchClock.now()
            repeat {
                try take(done, now)
                done = queue.next()
            } while !done.isNone
            if now >= deadline || mismatch != nil || gate.stop.load(ordering: .relaxed) { left = 0 }
        }
        outcome.ended = now
        outcome.cpu = BenchClock.threadCPU() &- cpu
        outcome.lastError = queue.lastError
        if let mismatch { throw .mismatch(mismatch) }
    }

    /// Sends requests until all slots are taken or `left` is 0.
    @inline(__always) private mutating func fillUp(_ left: inout UInt64, _ now: UInt64) throws(BenchError) {
        while freeCount > 0, left > 0 {
            if writesLeft == 0 {
                try sendFlush(now)
                continue
            }
            let choice = chooser.next()
            if choice.isWrite { writesLeft &-= 1 }
            send(choice, now)
            left &-= 1
        }
    }

    private mutating func sendFlush(_ now: UInt64) throws(BenchError) {
        freeCount &-= 1
        let slot = unsafe Int(free[freeCount])
        unsafe sent[slot] = now
        unsafe places[slot] = .flush
        guard queue.submitFlush(slot) else { throw .noFlush }
        writesLeft = options.flushEvery ?? .max
    }

    @inline(__always) private mutating func send(_ choice: BlockChooser.Choice, _ now: UInt64) {
        freeCount &-= 1
        let slot = unsafe Int(free[freeCount])
        unsafe sent[slot] = now
        unsafe places[slot] = choice
        if choice.isWrite, chooser.verifies { fill(slot, choice.offset) }
        queue.submit(slot, isWrite: choice.isWrite, offset: choice.offset)
    }

    @inline(__always) private mutating func take(_ done: BenchCompletion, _ now: UInt64) throws(BenchError) {
        let slot = done.slot
        let began = unsafe sent[slot]
        // The device answers a request twice, or one that was not sent.
        guard began != 0 else { throw .breakage("a request was answered twice") }
        unsafe sent[slot] = 0
        unsafe free[freeCount] = Int32(truncatingIfNeeded: slot)
        freeCount &+= 1
        let choice = unsafe places[slot]
        if choice.isFlush { return try tookFlush(done) }
        outcome.latencies.add(now &- began)
        if choice.isWrite { outcome.writes &+= 1 } else { outcome.reads &+= 1 }
        if !done.isOK { fail(choice.offset) }
        if chooser.verifies { account(slot, choice, done.isOK) }
    }

    private mutating func tookFlush(_ done: BenchCompletion) throws(BenchError) {
        guard done.isOK else { throw .flushFailed }
        outcome.flushes &+= 1
    }

    private mutating func fail(_ offset: UInt64) {
        if outcome.errors == 0 { outcome.firstError = offset }
        outcome.errors &+= 1
    }

    /// The next request that is done. Throws when the connection is closed, the ring is broken, or nothing comes for
    /// `timeout`.
    private mutating func waitForOne(
        _ inFlight: Int, _ wanted: Int, since: UInt64
    ) throws(BenchError) -> BenchCompletion {
        var tries = 0
        while true {
            queue.wait(inFlight: inFlight, wanted: wanted)
            let done = queue.next()
            if !done.isNone { return done }
            if let breakage = queue.breakage { throw .breakage(breakage) }
            tries &+= 1
            guard tries & 63 == 0 || options.wait == .interrupt else { continue }
            if gate.gone.load(ordering: .relaxed) { throw .gone }
            if BenchClock.now() &- since > Self.timeout &* 1_000_000_000 {
                throw .silence(seconds: Int(Self.timeout), inFlight: inFlight)
            }
        }
    }

    // MARK: checking

    private func fill(_ slot: Int, _ offset: UInt64) {
        unsafe pattern.fill(
            queue.buffer(slot), options.blockBytes, offset: offset, generation: chooser.nextGeneration(offset))
    }

    private mutating func account(_ slot: Int, _ choice: BlockChooser.Choice, _ isOK: Bool) {
        if choice.isWrite { return chooser.wrote(choice.offset, isOK: isOK) }
        let expected: UInt32?
        switch chooser.read(choice.offset) {
        case .nothing: return
        case .generation(let number): expected = number
        case .anyGeneration: expected = nil
        }
        guard isOK else { return }
        outcome.checked &+= 1
        let found = unsafe pattern.check(
            queue.buffer(slot), options.blockBytes, offset: choice.offset, generation: expected)
        if mismatch == nil { mismatch = found }
    }

    /// Flushes what was written; with `verify`, reads it again and checks it, block by block.
    mutating func readBack() throws(BenchError) {
        guard options.pattern.writes else { return }
        try flush()
        guard options.verify else { return }
        var next = chooser.written(from: 0)
        while true {
            let now = BenchClock.now()
            while freeCount > 0, let block = next {
                send(BlockChooser.Choice(offset: block.offset, isWrite: false), now)
                next = chooser.written(from: block.index + 1)
            }
            queue.publish()
            let inFlight = depth &- freeCount
            if inFlight == 0 { return }
            var done = queue.next()
            if done.isNone { done = try waitForOne(inFlight, 1, since: now) }
            repeat {
                unsafe sent[done.slot] = 0
                unsafe free[freeCount] = Int32(done.slot)
                freeCount &+= 1
                if !done.isOK { unsafe fail(places[done.slot].offset) }
                unsafe account(done.slot, places[done.slot], done.isOK)
                done = queue.next()
            } while !done.isNone
            outcome.lastError = queue.lastError
            if let mismatch { throw .mismatch(mismatch) }
        }
    }

    private mutating func flush() throws(BenchError) {
        let slot = unsafe Int(free[freeCount - 1])
        guard queue.submitFlush(slot) else { return }
        queue.publish()
        var done = queue.next()
        if done.isNone { done = try waitForOne(1, 1, since: BenchClock.now()) }
        guard done.slot == slot, done.isOK else { throw .flushFailed }
    }
}
