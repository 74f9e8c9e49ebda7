// What a worker knows of one virtqueue that it carries. It lives in a slab of the worker, never moves, and is touched
// by that worker alone.
import BlockEngine
import DiskTypes
import LinuxIO
import Virtqueue

/// One virtqueue and the engine that carries its requests.
struct ServedQueue: ~Copyable {
    enum State {
        case running
        /// No new requests; ends when nothing is in flight.
        case stopping(Answer<StoppedQueue?>)
    }

    let id: QueueID
    var virtqueue: Virtqueue
    /// Its slots are the queue's chains. Retained by `init`, released by `deinit`: the data path counts no references.
    let engine: Unmanaged<RequestEngine>
    /// Chains taken in one go.
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
    /// The call descriptor's number again, -1 without: the data path needs no more.
    var callFD: Int32
    /// A poll of the kick descriptor is on the ring.
    var kickArmed = false
    /// The kick descriptor is of no use, and so is the queue until it gets another.
    var kickFailed = false

    // Each is said once a queue.
    var saidDamage = false
    var saidBroken = false

    init(_ start: QueueStart, virtqueue: consuming Virtqueue, engine: RequestEngine) {
        id = start.id
        self.virtqueue = virtqueue
        self.engine = Unmanaged.passRetained(engine)
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

    deinit { engine.release() }

    /// Requests of the guest, and the flushes and tables they wait for.
    var inFlight: Int { engine._withUnsafeGuaranteedRef { $0.inFlight } }

    mutating func reopen() {
        guard case .running = state else { return isOpen = false }
        isOpen = isEnabled && !kickFailed && virtqueue.damage == .none
    }
}
