// What a worker knows of one virtqueue that it carries. The value is in an array of the worker, never moves, and only
// that worker accesses it.
import BlockEngine
import DiskTypes
import LinuxIO
import Virtqueue

/// One virtqueue and the engine that carries its requests.
@safe struct ServedQueue: ~Copyable {
    enum State {
        case running
        /// No new requests; ends when nothing is in flight.
        case stopping(Answer<StoppedQueue?>)
    }

    let id: QueueID
    var virtqueue: Virtqueue
    /// The engine, whose slots are the queue's chains. Retained by `init`, released by `deinit`: the data path counts
    /// no references.
    let engine: Unmanaged<RequestEngine>
    /// Chains taken in one pass.
    let batch: Int
    let settings: ExportSettings
    var disk: VirtioBlkDisk
    var state = State.running
    var isEnabled: Bool
    /// Requests are taken: enabled, running, and not broken.
    var isOpen: Bool

    var kick: SharedFD?
    var call: SharedFD?
    var err: SharedFD?
    /// The call descriptor's number again, -1 without one: the data path counts no references.
    var callFD: Int32
    /// A poll of the kick descriptor is on the ring.
    var kickArmed = false
    /// The kick descriptor cannot be polled; the queue waits for another.
    var kickFailed = false

    // Each of these is logged once a queue.
    var saidDamage = false
    var saidBroken = false

    init(_ start: QueueStart, virtqueue: consuming Virtqueue, engine: RequestEngine) {
        id = start.id
        self.virtqueue = virtqueue
        unsafe self.engine = unsafe Unmanaged.passRetained(engine)
        batch = engine.seesPages ? QueueWorker.shortBatch : QueueWorker.batch
        settings = start.export
        disk = start.disk
        isEnabled = start.isEnabled
        isOpen = start.isEnabled
        kick = start.kick
        call = start.call
        err = start.err
        callFD = start.call?.raw ?? -1
    }

    deinit { unsafe engine.release() }

    /// Requests of the guest in flight, and the flushes and tables they wait for.
    var inFlight: Int { unsafe engine._withUnsafeGuaranteedRef { $0.inFlight } }

    /// Computes `isOpen`; called after a change of anything that it depends on.
    mutating func reopen() {
        guard case .running = state else { return isOpen = false }
        isOpen = isEnabled && !kickFailed && virtqueue.damage == .none
    }
}
