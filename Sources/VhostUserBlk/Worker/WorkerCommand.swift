// Sessions tell workers what to do, and wait for the answer: the one seam between the control path, which is slow and
// clear, and the threads that carry requests. Nothing else crosses it.
import BlockEngine
import Dispatch
import DiskTypes
import ImageChain
import LinuxIO
import Synchronization
import SystemPackage
import Virtqueue

/// Which queue: of which export of the process, and which of its queues.
struct QueueID: Hashable, Sendable {
    let export: Int
    let index: Int
}

/// A descriptor that a session and a worker both hold.
final class SharedFD: Sendable {
    private let owned: OwnedFD
    var raw: Int32 { owned.raw }
    init(taking raw: Int32) { owned = OwnedFD(taking: raw) }
}

/// All that a worker needs to carry a queue.
struct QueueStart: Sendable {
    let id: QueueID
    let size: Int
    let features: RingFeatures
    let memory: GuestMemorySnapshot
    let memoryFiles: [GuestMemoryFile]
    let places: RingAddresses
    let base: UInt32
    let inflight: InflightMemory?
    let usedGuestAddress: UInt64
    let log: DirtyLog
    let logsRing: Bool
    let kick: SharedFD?
    let call: SharedFD?
    let err: SharedFD?
    let isEnabled: Bool
    let disk: VirtioBlkDisk
    let isDurable: Bool
    let export: ExportSettings
}

/// What of an export's options workers care about.
struct ExportSettings: Sendable {
    let name: String
    let chain: ImageChain
    let ignoresFlushes: Bool
    let discards: Bool
}

/// How a queue was left.
struct StoppedQueue: Sendable {
    /// The number that GET_VRING_BASE answers: where the ring goes on.
    let base: UInt32
    /// Requests of an earlier process are still in the record of requests in flight, and were not begun here.
    let hasReplays: Bool
}

/// The event descriptors of a queue.
enum QueueEvent: Sendable { case kick, call, err }

enum WorkerCommand: Sendable {
    /// nil, or why the queue cannot start.
    case start(QueueStart, Answer<String?>)
    /// Finishes what is in flight and gives the queue up; nil when there is no such queue.
    case stop(QueueID, Answer<StoppedQueue?>)
    case enable(QueueID, Bool, Answer<Bool>)
    case event(QueueID, QueueEvent, SharedFD?, Answer<Bool>)
    /// The guest's memory changed; answered when nothing in flight was read with the old one.
    case memory(export: Int, GuestMemorySnapshot, [GuestMemoryFile], [QueueID: RingAddresses], Answer<Bool>)
    case log(QueueID, DirtyLog, ring: Bool, usedGuestAddress: UInt64, Answer<Bool>)
    /// Size or cache mode changed.
    case disk(export: Int, VirtioBlkDisk, isDurable: Bool, Answer<Bool>)
    /// Ends once all queues are given up.
    case quit
}

/// A value that one thread waits for and another gives, once.
final class Answer<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let given = DispatchSemaphore(value: 0)

    func give(_ value: Value) {
        self.value.withLock { $0 = value }
        given.signal()
    }

    /// Blocks until the answer is there.
    func wait() -> Value {
        while true {
            given.wait()
            if let value = value.withLock({ $0 }) { return value }
        }
    }
}
