// The reason for the whole project: a thread that owns an io_uring and some virtqueues, and carries requests from one
// to the other without a lock, an allocation or a system call that could be shared. This file is the loop: work while
// there is any, look a little longer, sleep.
import BlockEngine
import DiskTypes
import LinuxIO
import Logging
import SystemPackage
import Virtqueue

/// How a worker waits for work.
public enum PollMode: String, Sendable, CaseIterable {
    /// Sleeps at once.
    case off
    /// Looks a little longer as long as that lately paid off, at most 32 us.
    case adaptive
    /// Never sleeps while a queue is open.
    case busy
}

/// Whose completion it is (bit 63 is the engines').
enum WorkerTag {
    static let mailbox: UInt64 = 1 << 56
    static let kick: UInt64 = 2 << 56
    static let cancel: UInt64 = 3 << 56
    static let kinds: UInt64 = 0xff << 56
    static let index: UInt64 = 0xffff
}

/// Confined to the thread that makes it.
final class QueueWorker {
    /// Queues that one worker can carry.
    static let queueLimit = 256
    /// Chains taken from one queue before the next has its turn. Requests on their way to a disk gain by company; those
    /// that are done at once had better be given back early, so that the driver works at the same time.
    static let batch = 64
    static let shortBatch = 32
    /// Bytes after which those that are done are given back before more are taken: long copies would keep them waiting.
    static let batchBytes = 1 << 20
    /// The longest look, in nanoseconds: QEMU's.
    static let longestLook: Int64 = 32_768

    let ring: Ring
    let mailbox: Mailbox<WorkerCommand>
    let poll: PollMode
    let log: Logger
    var polling: AdaptivePolling

    /// `queueLimit` places, those in `active` initialised.
    let queues: UnsafeMutablePointer<ServedQueue>
    let active: UnsafeMutablePointer<Int32>
    var activeCount = 0
    var freePlaces: [Int]

    /// Shares long transfers; made with the first queue.
    private(set) lazy var helper = CopyHelper(
        maxIovecs: ChainLimits.segments, looks: poll == .off ? 0 : Self.longestLook)

    var mailboxArmed = false
    var mailWaits = false
    var quits = false
    /// Memory changes that wait for requests read with older memory.
    var settling: [(export: Int, answer: Answer<Bool>)] = []
    /// Something happened in this turn.
    var moved = false
    /// Queues give up or settle: look at them when their requests are done.
    var hasEnds = false

    init(mailbox: Mailbox<WorkerCommand>, poll: PollMode, log: Logger) throws(ImageError) {
        ring = try Ring.make(entries: 512)
        self.mailbox = mailbox
        self.poll = poll
        self.log = log
        polling = AdaptivePolling(limit: Self.longestLook)
        queues = .allocate(capacity: Self.queueLimit)
        active = .allocate(capacity: Self.queueLimit)
        freePlaces = Array((0..<Self.queueLimit).reversed())
    }

    deinit {
        for i in 0..<activeCount { (queues + Int(active[i])).deinitialize(count: 1) }
        queues.deallocate()
        active.deallocate()
    }

    /// Carries queues until it is told to quit and the last one is given up.
    func run() {
        while !(quits && activeCount == 0) {
            armMailbox()
            runOnce()
            if mailWaits { handleCommands() }
            if hasEnds { endQueues() }
            if moved {
                // One call hands in all that was prepared and takes out what is done.
                if ring.hasPrepared || ring.hasDeferredWork { ring.submitAndWait(0) }
                continue
            }
            if !pollForWork() { sleep() }
        }
    }

    // MARK: waiting

    /// Looks for work without sleeping; true when there is some.
    private func pollForWork() -> Bool {
        guard poll != .off, activeCount > 0 else { return false }
        // What is prepared (the look at the mailbox, say) must be with the kernel, or its end could never be seen.
        if ring.hasPrepared { ring.submitAndWait(0) }
        polling.begin()
        while true {
            if ring.completionsReady > 0 { break }
            if ring.hasDeferredWork {
                ring.submitAndWait(0)
                break
            }
            if anyAvailable() { break }
            // A sibling thread or the guest itself may need the rest of this core's time.
            cpuRelax()
            if !polling.shouldContinue(), poll == .adaptive { return false }
        }
        polling.recordHit()
        return true
    }

    @inline(__always) private func anyAvailable() -> Bool {
        for i in 0..<activeCount {
            let queue = queues + Int(active[i])
            if queue.pointee.isOpen, queue.pointee.virtqueue.hasAvailable { return true }
        }
        return false
    }

    /// Asks for kicks, looks once more, and sleeps until the ring has something.
    private func sleep() {
        var missed = false
        for i in 0..<activeCount {
            let place = Int(active[i])
            guard queues[place].isOpen else { continue }
            armKick(place)
            // A queue without a kick descriptor wants to be polled.
            if queues[place].kick == nil || queues[place].virtqueue.enableKicks() { missed = true }
        }
        if missed {
            ring.submitAndWait(0)
        } else {
            ring.submitAndWait(1)
            if poll == .adaptive { polling.recordSleep() }
        }
        for i in 0..<activeCount where queues[Int(active[i])].isOpen {
            queues[Int(active[i])].virtqueue.disableKicks()
        }
    }

    private func armMailbox() {
        guard !mailboxArmed else { return }
        mailboxArmed = ring.preparePollAdd(fd: mailbox.fd, events: 1, userData: WorkerTag.mailbox)
    }

    func armKick(_ place: Int) {
        guard !queues[place].kickArmed, let kick = queues[place].kick else { return }
        queues[place].kickArmed = ring.preparePollAdd(
            fd: kick.raw, events: 1, userData: WorkerTag.kick | UInt64(place))
    }
}

/// The thread's own part: everything is made on it, because a ring belongs to its maker.
struct WorkerLife: ThreadWork, ~Copyable {
    let mailbox: Mailbox<WorkerCommand>
    let poll: PollMode
    let log: Logger
    let ready: Answer<ImageError?>

    consuming func run() {
        let worker: QueueWorker
        do throws(ImageError) {
            worker = try QueueWorker(mailbox: mailbox, poll: poll, log: log)
        } catch {
            return ready.give(error)
        }
        ready.give(nil)
        worker.run()
    }
}
