// The commands that sessions give to workers, and the answers they wait for: the only connection between the control
// path, which may take its time, and the threads that carry requests.
import BlockEngine
import Dispatch
import DiskTypes
import ImageChain
import LinuxIO
import Synchronization
import SystemPackage
import Virtqueue

/// A queue of the process: the export's number, and the queue's number in it.
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

/// The part of an export's options that workers need.
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

/// A command to a worker. Each but `quit` has an answer, which is given when the command has taken effect.
enum WorkerCommand: Sendable {
    /// Starts a queue; the answer is nil, or why it cannot start.
    case start(QueueStart, Answer<String?>)
    /// Finishes what is in flight and gives the queue up; the answer is nil when there is no such queue.
    case stop(QueueID, Answer<StoppedQueue?>)
    /// Takes requests from a queue, or not; the answer is false when there is no such queue.
    case enable(QueueID, Bool, Answer<Bool>)
    /// Replaces an event descriptor; the answer is false when there is no such queue.
    case event(QueueID, QueueEvent, SharedFD?, Answer<Bool>)
    /// The guest's memory changed; answered when no request in flight was read with the old memory.
    case memory(export: Int, GuestMemorySnapshot, [GuestMemoryFile], [QueueID: RingAddresses], Answer<Bool>)
    /// The dirty log changed; the answer is false when there is no such queue.
    case log(QueueID, DirtyLog, ring: Bool, usedGuestAddress: UInt64, Answer<Bool>)
    /// The disk's size or cache mode changed.
    case disk(export: Int, VirtioBlkDisk, isDurable: Bool, Answer<Bool>)
    /// Ends the worker once all queues are given up.
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
