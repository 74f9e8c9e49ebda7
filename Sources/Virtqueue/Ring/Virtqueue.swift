// The device's side of one virtqueue, split or packed, over memory that a hostile driver may write at any moment.
// Chains come out copied and checked, used buffers go back in batches; nothing is allocated, locked or
// reference-counted after `init`. Whatever the ring says, nothing traps: a request fails, or this queue alone is
// broken.
import Glibc

/// The features of a ring that change how it is read and written (virtio 1.3, section 6).
public struct RingFeatures: OptionSet, Sendable, BitwiseCopyable {
    /// The set as a number of this program; not the feature word on the wire.
    public let rawValue: UInt8
    /// See `init(negotiated:)` for a feature word.
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// VIRTIO_F_RING_PACKED: the ring is packed, not split.
    public static let packed = RingFeatures(rawValue: 1)
    /// VIRTIO_F_INDIRECT_DESC: descriptors may be in tables outside the ring.
    public static let indirect = RingFeatures(rawValue: 2)
    /// VIRTIO_F_EVENT_IDX: each side names the position at which it wants to be notified.
    public static let eventIndex = RingFeatures(rawValue: 4)
    /// VIRTIO_F_NOTIFY_ON_EMPTY: a signal when no request is left, whatever the driver asked for.
    public static let notifyOnEmpty = RingFeatures(rawValue: 8)
}

/// A virtqueue, owned by one worker.
///
///     while taken < batch, let chain = queue.pop() { ... }        // requests in
///     queue.push(chain, written: bytes)                            // requests out, not visible yet
///     if queue.publish() { signal the call eventfd }               // once per pass
///     queue.disableKicks() ... if queue.enableKicks() { look again } else { sleep }
@safe public struct Virtqueue: ~Copyable {
    /// Entries of the ring: 1 to 32768, and a power of two in a split ring.
    public let size: Int
    /// What was negotiated; fixed for the life of the queue.
    public let features: RingFeatures
    let isPacked: Bool
    /// Index bits of a split ring, whose size is a power of two.
    let mask: Int

    // The ring, as host memory. Valid while `isRunning`.
    var descriptors: UnsafeMutableRawPointer
    var driver: UnsafeMutableRawPointer
    var device: UnsafeMutableRawPointer
    /// Between `start` and `stop`.
    public internal(set) var isRunning = false
    /// Running, without dirty log, in-flight record or requests of an older snapshot: `push` takes its short path.
    var isPlain = false
    /// Why the queue takes no more requests; `.none` while it does.
    public internal(set) var damage: RingError = .none

    // Positions. Split: running 16-bit indices. Packed: entries of the ring, with wrap counters.
    var nextAvail: UInt16 = 0
    var availWrap = true
    /// Split: avail.idx as it was read last; no acquire load before everything up to it is taken.
    var shadowAvail: UInt16 = 0
    var nextUsed: UInt16 = 0
    var usedWrap = true
    /// The used position that was published last.
    var publishedUsed: UInt16 = 0
    /// Ring entries used but not published (split: elements, packed: descriptors).
    var pendingEntries = 0
    /// Packed: the first word of the batch, which makes all of it visible when it is stored.
    var pendingWord: UInt64 = 0
    /// The driver gets a signal for the next publication whatever it asked for: the one it waits for may have got lost.
    var mustSignal = true

    // Requests.
    let chains: UnsafeMutablePointer<DescriptorChain>
    let shortLists: UnsafeMutablePointer<iovec>
    let pool: ListPool
    /// Packed: free places of the slab, and the buffer ids in flight.
    let freeSlots: IndexStack
    let idsInFlight: UnsafeMutablePointer<UInt64>
    /// Room for one descriptor that cannot be loaded in place.
    let scratch: UnsafeMutableRawPointer
    /// Requests that `pop` returned and `push` did not get back yet.
    public internal(set) var inFlight = 0
    /// Packed: ring entries of the chains in flight.
    var entriesInFlight = 0
    /// Requests that came in damaged, and publications of a buffer that was in flight already.
    public internal(set) var refused: UInt64 = 0

    // Guest memory.
    /// The snapshot with which requests are read.
    public internal(set) var memory: GuestMemorySnapshot
    var lastRegion: UnsafePointer<GuestRegion>
    /// Requests in flight that were read with an older snapshot.
    var unsettled = 0

    // Migration and crash recovery.
    var log = DirtyLog.off
    var logRing = false
    /// Guest addresses under which writes to the device area (`device`) and to a packed ring's entries are logged.
    var deviceLogAddress: UInt64 = 0
    var descriptorsLogAddress: UInt64 = 0
    var inflightSplit: InflightSplit?
    var inflightPacked: InflightPacked?
    /// Records of the requests pushed but not published: heads (split) or entries (packed).
    let batch: UnsafeMutablePointer<UInt16>
    var batchCount = 0
    /// Requests of the process before this one, in the order in which they came.
    let replay: UnsafeMutablePointer<UInt16>
    var replayCount = 0
    var replayed = 0

    /// Makes a queue that is stopped. `memory` must stay valid until `adopt` gives another snapshot. Throws `.badSize`
    /// for a size that is not 1 to 32768, or no power of two in a split ring.
    public init(size: Int, features: RingFeatures, memory: GuestMemorySnapshot) throws(VirtqueueError) {
        let isPacked = features.contains(.packed)
        guard size > 0, size <= 32768, isPacked || size & (size - 1) == 0 else { throw .badSize(size) }
        self.size = size
        self.features = features
        self.isPacked = isPacked
        self.memory = memory
        unsafe lastRegion = unsafe memory.regions
        mask = size - 1
        unsafe shortLists = unsafe slab(size * ChainLimits.shortList, of: iovec())
        unsafe chains = unsafe slab(size, of: DescriptorChain(slot: 0, iovecs: shortLists, memory: memory))
        for i in 0..<size { unsafe chains[i].slot = UInt32(i) }
        pool = ListPool(count: min(size, ChainLimits.longLists))
        freeSlots = IndexStack(count: isPacked ? size : 0)
        unsafe idsInFlight = unsafe slab(isPacked ? 65536 / 64 : 0, of: 0)
        unsafe scratch = .allocate(byteCount: RingLayout.descriptorBytes, alignment: 16)
        unsafe replay = unsafe slab(size, of: 0)
        unsafe batch = unsafe slab(size, of: 0)
        unsafe descriptors = unsafe scratch
        unsafe driver = unsafe scratch
        unsafe device = unsafe scratch
    }

    deinit {
        unsafe chains.deallocate()
        unsafe shortLists.deallocate()
        pool.deallocate()
        freeSlots.free()
        unsafe idsInFlight.deallocate()
        unsafe scratch.deallocate()
        unsafe replay.deallocate()
        unsafe batch.deallocate()
    }

    // MARK: requests

    /// `push` with a dirty log, an in-flight record or an older snapshot of the memory, or after `stop`.
    @inline(never)
    mutating func pushCarefully(_ chain: UnsafeMutablePointer<DescriptorChain>, _ written: UInt32) {
        if isRunning, log.isOn { unsafe logWritten(chain) }
        if isPacked { unsafe leavePacked(chain) }
        if unsafe chain.pointee.memory.generation != memory.generation {
            unsettled &-= 1
            refresh()
        }
        guard isRunning else { return }
        if inflightSplit != nil || inflightPacked != nil {
            unsafe batch[batchCount] = unsafe isPacked ? chain.pointee.record : chain.pointee.id
            batchCount &+= 1
        }
        let position = nextUsed
        if isPacked { unsafe writeUsedPacked(chain, written) } else { unsafe writeUsedSplit(chain.pointee.id, written) }
        if logRing { logUsed(position) }
    }

    /// Computes `isPlain`; called after a change of anything that it depends on.
    mutating func refresh() {
        isPlain = isRunning && !log.isOn && inflightSplit == nil && inflightPacked == nil && unsettled == 0
    }

    /// The chain of a slot that is in flight. Traps when `slot` is not in `0..<size`.
    @inline(__always)
    public func chain(_ slot: Int) -> UnsafeMutablePointer<DescriptorChain> {
        precondition(slot >= 0 && slot < size, "no such slot")
        return unsafe chains + slot
    }

    @inline(never) mutating func returnList(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        unsafe pool.free.give(chain.pointee.longList)
        unsafe chain.pointee.longList = -1
    }

    /// Marks a chain as in flight: the same for both kinds of ring.
    @inline(__always) mutating func enter(_ chain: UnsafeMutablePointer<DescriptorChain>, id: UInt16) {
        unsafe chain.pointee.id = id
        unsafe chain.pointee.isInFlight = true
        inFlight &+= 1
        if unsafe chain.pointee.fault != .none { refused &+= 1 }
    }

    @inline(__always) func shortList(_ slot: Int) -> UnsafeMutablePointer<iovec> {
        unsafe shortLists + slot &* ChainLimits.shortList
    }

    /// The ring cannot be read any further: this queue alone stops taking requests.
    @inline(never) mutating func markBroken(_ why: RingError) {
        if damage == .none { damage = why }
    }
}

// Kick suppression: while a worker polls, the driver need not write to its eventfd. Before the worker sleeps it asks for
// kicks, and a barrier and a second look at the ring follow; else a request published in between would wait for the next
// kick.
extension Virtqueue {
    /// Tells the driver that it need not kick, because the worker polls. A hint: kicks may come all the same.
    public mutating func disableKicks() {
        guard isRunning, damage == .none else { return }
        if isPacked { setPackedKicks(false) } else { setSplitKicks(false) }
    }

    /// Asks for kicks again. True when requests came meanwhile, for which no kick will come: the worker polls once more
    /// before it sleeps.
    public mutating func enableKicks() -> Bool {
        guard isRunning, damage == .none else { return false }
        if isPacked { setPackedKicks(true) } else { setSplitKicks(true) }
        fullFence()
        return hasAvailable
    }
}
