// Why this file exists: every door (a FUSE queue, a virtqueue, an offline verb) has requests for guest bytes; this is
// the one place that turns them into reads of host files. It knows no formats and no doors. Its data path takes no
// lock, allocates nothing, throws nothing: whatever a request needs exists before the first one comes.
public import DiskTypes
public import Glibc
public import ImageChain
public import LinuxIO
import ClusterCodec

/// Carries read requests for one image on one thread.
///
/// The engine shares a `Ring` with its owner: completions whose user data has bit 63 set are the engine's and go to
/// `complete`, all others are the owner's. The engine only prepares entries; the owner submits and drains:
///
///     engine.submitRead(slot: 3, guest: GuestOffset(0), buffer: memory, length: 4096)
///     ring.submitAndWait(1)
///     ring.drain { userData, result in
///         if RequestEngine.owns(userData) { engine.complete(userData, result) } else { ... }
///     }
///     while let done = engine.nextFinished() { ... }
///
/// A request may be finished as soon as `submitRead` returns (zeros, cached clusters), so ask `nextFinished` before
/// waiting. Not `Sendable`: make it, use it and drop it on the ring's thread, once nothing is in flight.
public final class RequestEngine {
    let chain: ImageChain
    let ring: Ring

    // Records: see Slots.swift.
    let slotCount: Int
    let slots: UnsafeMutablePointer<Slot>
    let pieces: UnsafeMutablePointer<Piece>
    let files: UnsafeMutablePointer<FileSide>
    let fileCount: Int
    let diskSize: UInt64
    /// The file of `ImageChain.plainOffset`.
    let plainFile: UInt16
    /// `maxIovecs` per slot: the caller's list, copied.
    let slotIovecs: UnsafeMutablePointer<iovec>
    /// `maxIovecs` per piece: what the kernel reads when the piece is submitted.
    let pieceIovecs: UnsafeMutablePointer<iovec>
    let maxIovecs: Int

    var freePieces: FreeList
    var bounces: BouncePool
    var tables: TableLoads
    var clusters: ClusterCache
    var loads: ClusterLoads
    let decoder: ClusterDecoder

    var finished = Queue()
    /// Slots that wait for a piece or a buffer, first come first served.
    var parked = Queue()
    /// Reads that the ring had no room for.
    var deferred: TagQueue

    /// Requests that are submitted and not yet handed out by `nextFinished`.
    public private(set) var inFlight = 0
    /// What happened so far.
    public internal(set) var statistics = Statistics()

    /// Makes the engine with everything it will ever need, except buffers whose size depends on the image's tables
    /// and compressed clusters: those are made when first needed, and kept.
    ///
    /// - Parameters:
    ///   - slots: how many requests can be in flight; slot numbers are `0..<slots`.
    ///   - maxIovecs: how many ranges of memory one request can have at most.
    ///   - decodedCacheBytes: how much memory decoded clusters may take (at least one is always kept).
    public init(
        chain: ImageChain, ring: Ring, slots count: Int, maxIovecs: Int = 1, decodedCacheBytes: Int = 8 << 20
    ) throws(ImageError) {
        guard count > 0, count <= 65536, maxIovecs > 0, maxIovecs <= 1024 else {
            throw ImageError(.unsupported, "an engine for \(count) requests of \(maxIovecs) memory ranges")
        }
        guard let decoder = ClusterDecoder() else {
            throw ImageError(.system, "no memory for the decompressors")
        }
        self.chain = chain
        self.ring = ring
        self.decoder = decoder
        diskSize = chain.size
        plainFile = chain.activeDataFile
        slotCount = count
        slots = slab(count, of: Slot())
        // Most requests are one extent; the rest park a moment rather than cost memory always.
        let pieceCount = min(max(count * 2, 64), 65536)
        pieces = slab(pieceCount, of: Piece())
        freePieces = FreeList(count: pieceCount)
        self.maxIovecs = maxIovecs
        let listed = maxIovecs > 1 ? maxIovecs : 0
        slotIovecs = slab(count * listed, of: iovec())
        pieceIovecs = slab(pieceCount * listed, of: iovec())
        files = slab(chain.files.count, of: FileSide(buffered: -1, data: -1, memoryMask: 0, offsetMask: 0))
        fileCount = chain.files.count
        var direct = false
        for (i, file) in chain.files.enumerated() {
            files[i] = FileSide(file)
            direct = direct || file.directFD >= 0
        }
        bounces = BouncePool(count: direct ? 16 : 0)
        tables = TableLoads(count: min(count, 64))
        loads = ClusterLoads(count: min(count, 32))
        clusters = ClusterCache(bytes: max(decodedCacheBytes, 0))
        deferred = TagQueue(capacity: pieceCount + tables.count + loads.count)
    }

    deinit {
        // Dropped with reads in flight, the kernel may still write into these buffers: better lost than reused.
        for i in 0..<slotCount where slots[i].state != .free && slots[i].state != .finished { return }
        slots.deallocate()
        pieces.deallocate()
        files.deallocate()
        slotIovecs.deallocate()
        pieceIovecs.deallocate()
        freePieces.free()
        bounces.free()
        tables.free()
        loads.free()
        clusters.free()
        deferred.free()
    }

    /// Whether a completion of the shared ring is the engine's.
    @inlinable @inline(__always) public static func owns(_ userData: UInt64) -> Bool { userData >> 63 != 0 }

    /// Whether another request may be submitted now (on a slot that is free).
    public var canSubmit: Bool { inFlight < slotCount }

    // MARK: requests in

    /// Reads `length` bytes of the disk at `guest` into `buffer`, which stays the engine's until `nextFinished` hands
    /// the slot back.
    public func submitRead(slot: Int, guest: GuestOffset, buffer: UnsafeMutableRawPointer, length: Int) {
        let index = Int32(truncatingIfNeeded: slot)
        if open(slot, guest, length) { begin(index, guest, buffer, length) }
    }

    /// Reads `length` bytes of the disk at `guest` into `count` ranges of memory, one after the other. The list is
    /// copied; the memory stays the engine's until `nextFinished` hands the slot back.
    public func submitRead(slot: Int, guest: GuestOffset, iovecs: UnsafePointer<iovec>, count: Int, length: Int) {
        guard open(slot, guest, length) else { return }
        let index = Int32(truncatingIfNeeded: slot)
        if count == 1, let base = iovecs.pointee.iov_base, iovecs.pointee.iov_len >= length {
            return begin(index, guest, base, length)
        }
        guard count <= maxIovecs, maxIovecs > 1 else { return refuse(index, EINVAL) }
        let own = slotIovecs + slot &* maxIovecs
        var room = 0
        for i in 0..<max(count, 0) {
            own[i] = iovecs[i]
            let (sum, overflow) = room.addingReportingOverflow(own[i].iov_len)
            guard !overflow, own[i].iov_len >= 0, own[i].iov_len == 0 || own[i].iov_base != nil else {
                return refuse(index, EINVAL)
            }
            room = sum
        }
        guard room >= length else { return refuse(index, EINVAL) }
        slots[slot].base = nil
        slots[slot].iovecCount = Int32(truncatingIfNeeded: count)
        beginWalk(index)
    }

    /// Takes the slot into use; false when the request is finished already because it makes no sense.
    @inline(__always) private func open(_ slot: Int, _ guest: GuestOffset, _ length: Int) -> Bool {
        precondition(slot >= 0 && slot < slotCount, "no such slot")
        let record = slots + slot
        precondition(record.pointee.state == .free, "the slot is in flight")
        inFlight &+= 1
        statistics.requests &+= 1
        record.pointee.start = guest.bytes
        record.pointee.end = guest.bytes &+ UInt64(truncatingIfNeeded: length)
        record.pointee.pieces = 0
        record.pointee.error = 0
        record.pointee.hasDamage = false
        guard length >= 0, length <= Int(Int32.max), guest.bytes <= diskSize,
            UInt64(length) <= diskSize &- guest.bytes
        else {
            refuse(Int32(truncatingIfNeeded: slot), EINVAL)
            return false
        }
        return true
    }

    /// Starts a request for one range of memory. Nearly all are one aligned extent of plain data whose table is in
    /// memory: the short way is theirs.
    @inline(__always)
    private func begin(_ slot: Int32, _ guest: GuestOffset, _ base: UnsafeMutableRawPointer, _ length: Int) {
        let record = slots + Int(slot)
        record.pointee.base = base
        if parked.isEmpty, length > 0,
            let host = chain.plainOffset(guest, length: UInt64(truncatingIfNeeded: length)),
            sendStraight(plainFile, host.bytes, into: base, at: 0, length, slot)
        {
            record.pointee.state = .draining
        } else {
            beginWalk(slot)
        }
    }

    /// Starts a request the long way, behind those that wait for resources already.
    private func beginWalk(_ slot: Int32) {
        let record = slots + Int(slot)
        record.pointee.cursor = record.pointee.start
        record.pointee.tableTries = 0
        if parked.isEmpty { walk(slot) } else { park(slot) }
    }

    private func refuse(_ slot: Int32, _ error: Int32) {
        slots[Int(slot)].error = error
        slots[Int(slot)].state = .finished
        finished.push(slot, in: slots)
    }

    // MARK: requests out

    /// A request that is done, in the order they were done.
    public struct Finished: Sendable {
        public let slot: UInt32
        /// 0, or the errno to answer with.
        public let error: Int32
        /// Why, when the image's mapping is what is wrong.
        public let damage: MapDamage?
    }

    /// The next request that is done, whose slot is free again from here on; nil when there is none now.
    public func nextFinished() -> Finished? {
        if !deferred.isEmpty { sendDeferred() }
        let slot = finished.pop(from: slots)
        guard slot >= 0 else { return nil }
        let record = slots + Int(slot)
        record.pointee.state = .free
        inFlight &-= 1
        if record.pointee.error == 0 {
            statistics.bytes &+= record.pointee.end &- record.pointee.start
            return Finished(slot: UInt32(bitPattern: slot), error: 0, damage: nil)
        }
        statistics.errors &+= 1
        let damage: MapDamage? = record.pointee.hasDamage ? record.pointee.damage : nil
        return Finished(slot: UInt32(bitPattern: slot), error: record.pointee.error, damage: damage)
    }

    /// Takes in a completion of the ring that `owns` recognises.
    public func complete(_ userData: UInt64, _ result: Int32) {
        let index = Tag.index(userData)
        switch userData & Tag.kinds {
        case Tag.piece: completePiece(index, result)
        case Tag.table: completeTable(index, result)
        default: completeLoad(index, result)
        }
        if !parked.isEmpty { resumeParked() }
    }

    /// Memory of a slot's request.
    @inline(__always) func memory(of slot: Int32) -> CallerMemory {
        let record = slots + Int(slot)
        return CallerMemory(
            base: record.pointee.base, iovecs: slotIovecs + Int(slot) &* maxIovecs,
            count: Int(record.pointee.iovecCount))
    }
}

/// Bound to the thread of its ring.
@available(*, unavailable) extension RequestEngine: Sendable {}
