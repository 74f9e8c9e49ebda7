// A worker: a thread that owns an io_uring and some virtqueues, and carries requests from one to the other. On their
// way there is no lock, no allocation, and no system call that several requests could share. This file is the loop: it
// works while there are requests, polls a little longer, and sleeps.
import BlockEngine
import DiskTypes
import LinuxIO
import Logging
import SystemPackage
import Virtqueue

/// How a worker without requests waits for the next. The raw values are those of `--poll`.
public enum PollMode: String, Sendable, CaseIterable {
    /// It sleeps at once.
    case off
    /// It polls first, the longer the more often that has lately found requests, at most 32 us.
    case adaptive
    /// It never sleeps while a queue is open.
    case busy
}

/// Tags of the worker's own operations on its io_uring; bit 63 marks an engine's.
enum WorkerTag {
    static let mailbox: UInt64 = 1 << 56
    static let kick: UInt64 = 2 << 56
    static let cancel: UInt64 = 3 << 56
    static let kinds: UInt64 = 0xff << 56
    static let index: UInt64 = 0xffff
}

/// The state of a worker. For the thread that makes it.
@safe final class QueueWorker {
    /// Queues that one worker can carry.
    static let queueLimit = 256
    /// Chains taken from one queue before the next queue follows. Many at a time are better for requests that go to a
    /// disk, because they are submitted together; few are better for requests that are done at once, because the driver
    /// gets them back early and works meanwhile.
    /// For queues without mapped pages: their requests go to a disk.
    static let batch = 64
    /// For queues whose engine maps pages of the page cache: many of their requests are done at once.
    static let shortBatch = 32
    /// Bytes of one queue's requests after which those that are done are given back before more are taken: long copies
    /// would delay their answers.
    static let batchBytes = 1 << 20
    /// Nanoseconds of the longest polling: QEMU's.
    static let longestLook: Int64 = 32_768

    let ring: Ring
    let mailbox: Mailbox<WorkerCommand>
    let poll: PollMode
    let log: Logger
    var polling: AdaptivePolling

    /// Memory for `queueLimit` queues; those whose places are in `active` are initialised.
    let queues: UnsafeMutablePointer<ServedQueue>
    let active: UnsafeMutablePointer<Int32>
    var activeCount = 0
    var freePlaces: [Int]

    /// The thread that shares long copies; started with the first queue.
    private(set) lazy var helper = CopyHelper(
        maxIovecs: ChainLimits.segments, looks: poll == .off ? 0 : Self.longestLook)

    var mailboxArmed = false
    var mailWaits = false
    var quits = false
    /// Memory changes that wait for the requests which were read with older memory.
    var settling: [(export: Int, answer: Answer<Bool>)] = []
    /// Something happened in this pass.
    var moved = false
    /// Some queues wait for their end, or some memory changes for requests: `endQueues` has to look.
    var hasEnds = false

    init(mailbox: Mailbox<WorkerCommand>, poll: PollMode, log: Logger) throws(ImageError) {
        ring = try Ring.make(entries: 512)
        self.mailbox = mailbox
        self.poll = poll
        self.log = log
        polling = AdaptivePolling(limit: Self.longestLook)
        unsafe queues = .allocate(capacity: Self.queueLimit)
        unsafe active = .allocate(capacity: Self.queueLimit)
        freePlaces = Array((0..<Self.queueLimit).reversed())
    }

    deinit {
        for i in 0..<activeCount { unsafe (queues + Int(active[i])).deinitialize(count: 1) }
        unsafe queues.deallocate()
        unsafe active.deallocate()
    }

    /// Carries queues until it is told to quit and the last queue is given up.
    func run() {
        while !(quits && activeCount == 0) {
            armMailbox()
            runOnce()
            if mailWaits { handleCommands() }
            if hasEnds { endQueues() }
            if moved {
                // One call submits all that was prepared and collects what is done.
                if ring.hasPrepared || ring.hasDeferredWork { ring.submitAndWait(0) }
                continue
            }
            if !pollForWork() { sleep() }
        }
    }

    // MARK: waiting

    /// Polls for work without sleeping; true when there is some.
    private func pollForWork() -> Bool {
        guard poll != .off, activeCount > 0 else { return false }
        // What is prepared (the poll of the mailbox, for one) must be submitted first, or its completion would never
        // come.
        if ring.hasPrepared { ring.submitAndWait(0) }
        polling.begin()
        while true {
            if ring.completionsReady > 0 { break }
            if ring.hasDeferredWork {
                ring.submitAndWait(0)
                break
            }
            if anyAvailable() { break }
            // The sibling hardware thread, perhaps the guest itself, gets more of the core's time.
            cpuRelax()
            if !polling.shouldContinue(), poll == .adaptive { return false }
        }
        polling.recordHit()
        return true
    }

    @inline(__always) private func anyAvailable() -> Bool {
        for i in 0..<activeCount {
            let queue = unsafe queues + Int(active[i])
            if unsafe queue.pointee.isOpen, unsafe queue.pointee.virtqueue.hasAvailable { return true }
        }
        return false
    }

    /// Asks for kicks, looks at the queues once more, and sleeps until the ring has a completion.
    private func sleep() {
        var missed = false
        for i in 0..<activeCount {
            let place = unsafe Int(active[i])
            guard unsafe queues[place].isOpen else { continue }
            armKick(place)
            // A queue without a kick descriptor is to be polled.
            if unsafe queues[place].kick == nil || queues[place].virtqueue.enableKicks() { missed = true }
        }
        if missed {
            ring.submitAndWait(0)
        } else {
            ring.submitAndWait(1)
            if poll == .adaptive { polling.recordSleep() }
        }
        for i in 0..<activeCount where unsafe queues[Int(active[i])].isOpen {
            unsafe queues[Int(active[i])].virtqueue.disableKicks()
        }
    }

    private func armMailbox() {
        guard !mailboxArmed else { return }
        mailboxArmed = ring.preparePollAdd(fd: mailbox.fd, events: 1, userData: WorkerTag.mailbox)
    }

    func armKick(_ place: Int) {
        guard unsafe !queues[place].kickArmed, let kick = unsafe queues[place].kick else { return }
        unsafe queues[place].kickArmed = ring.preparePollAdd(
            fd: kick.raw, events: 1, userData: WorkerTag.kick | UInt64(place))
    }
}

/// The work of a worker's thread: everything is made on it, because a ring belongs to the thread that made it.
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
