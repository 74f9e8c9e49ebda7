// Every door (a FUSE queue, a virtqueue, an offline verb) has requests for guest bytes; this is
// the one place that turns them into transfers of host files. It knows no formats and no doors. Its data path takes no
// lock, allocates nothing, throws nothing: whatever a request needs exists before the first one comes.
public import DiskTypes
import Glibc
public import ImageChain
public import LinuxIO
import ClusterCodec

/// Carries the requests for one image on one thread.
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
/// A request may be finished as soon as it is submitted (zeros, cached clusters), and neighbours are gathered: ask
/// `nextFinished` before waiting, always. Not `Sendable`: make it, use it and drop it on the ring's thread, once nothing is in flight.
public final class RequestEngine {
    let chain: ImageChain
    let ring: Ring

    // Records: see Slots.swift.
    let requestCount: Int
    let requests: RecordTable<Request>
    let transfers: RecordTable<Transfer>
    let files: RecordTable<DataFile>
    let fileCount: Int
    /// The file of `ImageChain.plainOffset`.
    let plainFile: UInt16
    let maxIovecs: Int
    /// What completions of this engine carry, besides kind and index.
    let number: UInt64
    /// Zeros to write where the file system cannot make them, as much as `zeroBytes`.
    let zeros: UnsafeMutableRawPointer

    var freeTransfers: FreeList<TransferIndex>
    /// How many of them are for allocating writes alone: who holds clusters must never wait for a transfer.
    let reservedTransfers: Int
    var lists: IovecPool
    var run = RequestRun()
    let runLimit: Int
    var flushes = FlushQueue()
    /// What goes without the ring: reads and writes of pages that are in memory.
    var pageCache: PageCacheIO
    /// What the file of the data can do, as far as it was tried.
    var canPunch = true
    var canZero = true
    var bounces: BounceBuffers
    var tables: L2TableLoads
    var clusters: ClusterCache
    var loads: ClusterLoads
    /// Made for the first compressed cluster: most images have none, and each start of a guest's queue makes an engine.
    var decoder: ClusterDecoder?

    var finished = IndexQueue<Request>()
    /// Requests that wait for a transfer or a buffer, first come first served.
    var waitingForResources = IndexQueue<Request>()
    /// Transfers that the ring had no room for.
    var backlog: TagQueue

    /// Writes are on the medium before they are answered.
    public var writeThrough = false { didSet { pageCache.mayWrite = writesInline && !writeThrough } }
    /// Writes through the page cache may be plain calls of this thread. Off: all go by the ring.
    public var writesInline = true { didSet { pageCache.mayWrite = writesInline && !writeThrough } }
    /// Flushes are answered without doing anything: a crash of the host may lose everything. For scratch disks.
    public var ignoresFlushes = false
    /// Discards of a raw image give its storage back.
    public var discards = true

    /// Requests that are submitted and not yet handed out by `nextFinished`.
    var outstanding = 0
    /// The same, and what else is on the ring: 0 means that the engine can be dropped.
    public var inFlight: Int { outstanding &+ (allocations?.isPollArmed == true ? 1 : 0) }
    /// What allocates; nil for images whose mapping never changes.
    let allocations: Allocations?
    /// Counts requests in flight for the image's writer.
    let counts: InFlightCounts?
    /// The first write asks whether it may.
    var isPrepared: Bool
    var counters = Statistics()
    /// What happened so far.
    public var statistics: Statistics {
        var all = counters
        all.mapped = pageCache.mapped
        all.shared = pageCache.shared
        return all
    }

    /// Makes the engine with everything it will ever need, except buffers whose size depends on the image's tables
    /// and compressed clusters: those are made when first needed, and kept.
    ///
    /// - Parameters:
    ///   - slots: how many requests can be in flight; their numbers are `0..<slots`.
    ///   - maxIovecs: how many ranges of memory one request can have at most.
    ///   - decodedCacheBytes: how much memory decoded clusters may take (at least one is always kept).
    ///   - number: tells this engine's completions from those of others on the same ring; see `number(of:)`.
    ///   - seesPages: pages of the page cache are reached through mappings. For doors, whose guests come back to them.
    ///   - helper: shares long transfers of such pages; of the thread that uses the engine, and made for `maxIovecs`.
    public init(
        chain: ImageChain, ring: Ring, slots count: Int, maxIovecs: Int = 1, decodedCacheBytes: Int = 8 << 20,
        number: UInt16 = 0, seesPages: Bool = false, helper: CopyHelper? = nil
    ) throws(ImageError) {
        guard count > 0, count <= 65536, maxIovecs > 0, maxIovecs <= 1024 else {
            throw ImageError(.unsupported, "an engine for \(count) requests of \(maxIovecs) memory ranges")
        }
        // Its lists of ranges have no more room than it was made with.
        guard helper.map({ $0.maxIovecs >= maxIovecs }) ?? true else {
            throw ImageError(.unsupported, "a helper for requests of fewer memory ranges than \(maxIovecs)")
        }
        guard let zeros = Self.sharedZeros else { throw ImageError(.system, "no memory for zeros") }
        self.chain = chain
        self.ring = ring
        self.zeros = zeros
        plainFile = chain.activeDataFile
        requestCount = count
        allocations = try Allocations(chain, requests: count)
        counts = allocations.map { $0.writer.counts(of: $0.client) }
        isPrepared = allocations?.writer.plan.isPrepared ?? true
        pageCache = PageCacheIO(chain, maxIovecs: maxIovecs, helper: helper)
        // Those behind the door's own read what allocating writes must copy.
        requests = RecordTable(count: count + (allocations?.count ?? 0), of: Request())
        // Most requests are one extent; the rest waits a moment rather than cost memory always.
        reservedTransfers = allocations?.count ?? 0
        let transferCount = min(max(count * 2, 64), 65536) + reservedTransfers
        transfers = RecordTable(count: transferCount, of: Transfer())
        freeTransfers = FreeList(count: transferCount)
        self.maxIovecs = maxIovecs
        self.number = UInt64(number) << CompletionTag.numberShift
        lists = IovecPool(count: 64, length: max(maxIovecs, RequestRun.requestLimit))
        runLimit = RequestRun.requestLimit
        files = RecordTable(
            count: chain.files.count, of: DataFile(buffered: -1, data: -1, memoryMask: 0, offsetMask: 0))
        fileCount = chain.files.count
        var direct = false
        for (i, file) in chain.files.enumerated() {
            // Clusters smaller than a page share it: tables go through the page cache, so all does.
            let canBypass = allocations == nil || chain.clusterSize(ofLayer: 0) >= 4096
            // What a disk needs more than its size is a fraction of a per cent, and some clusters of snapshots.
            let growth = i == Int(plainFile) && chain.isWritable ? chain.size &+ chain.size / 32 &+ 64 << 20 : 0
            files[UInt16(i)] = DataFile(file, direct: canBypass)
            pageCache.files[UInt16(i)] = PageCacheFile(
                file, isDirect: files[UInt16(i)].isDirect, room: seesPages ? growth : nil)
            files[UInt16(i)].keep(in: ring)
            direct = direct || file.directFD >= 0
        }
        bounces = BounceBuffers(count: direct ? 16 : 0)
        tables = L2TableLoads(count: min(count, 64))
        loads = ClusterLoads(count: min(count, 32))
        clusters = ClusterCache(bytes: max(decodedCacheBytes, 0))
        backlog = TagQueue(capacity: transferCount + tables.count + loads.count + 2)
    }

    deinit {
        // Dropped with transfers in flight, the kernel may still write into these buffers: better lost than reused.
        for i in 0..<requestCount
        where requests[RequestIndex(i)].state != .free && requests[RequestIndex(i)].state != .finished { return }
        for i in 0..<fileCount { files[UInt16(i)].release(in: ring) }
        requests.deallocate()
        transfers.deallocate()
        files.deallocate()
        allocations?.end()
        run.members.deallocate()
        lists.free()
        pageCache.free()
        freeTransfers.free()
        bounces.free()
        tables.free()
        loads.free()
        clusters.free()
        backlog.free()
    }

    /// Whether a completion of the shared ring is the engine's.
    @inlinable @inline(__always) public static func owns(_ userData: UInt64) -> Bool { userData >> 63 != 0 }

    /// Which of the engines of a ring a completion belongs to.
    @inlinable @inline(__always) public static func number(of userData: UInt64) -> Int {
        Int(truncatingIfNeeded: userData >> 32 & 0xffff)
    }

    /// Most of what the guest uses is done in the call that takes it in.
    public var seesPages: Bool { pageCache.seesPages }

    /// Where the callers' memory comes from: writes of the page cache need it to go by its mapping. The descriptors must
    /// stay open until they are replaced.
    public func setGuestMemoryFiles(_ files: [GuestMemoryFile]) { pageCache.sources.replace(files) }

    /// Whether another request may be submitted now (on a slot that is free).
    public var canAccept: Bool { outstanding < requestCount }

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
        if !backlog.isEmpty { sendBacklog() }
        if run.count > 0 { closeRun() }
        if pageCache.hasQueued { copyQueued() }
        let request = finished.pop(from: requests)
        guard request.exists else { return nil }
        requests[request].state = .free
        outstanding &-= 1
        if let counts { counts.end(requests[request].parity) }
        if requests[request].error == 0 {
            counters.bytes &+= requests[request].end &- requests[request].start
            return Finished(slot: UInt32(bitPattern: request.raw), error: 0, damage: nil)
        }
        counters.errors &+= 1
        let damage: MapDamage? = requests[request].hasDamage ? requests[request].damage : nil
        return Finished(
            slot: UInt32(bitPattern: request.raw), error: requests[request].error, damage: damage)
    }

    /// Takes in a completion of the ring that `owns` recognises.
    public func complete(_ userData: UInt64, _ result: Int32) {
        let index = CompletionTag.index(userData)
        switch userData & CompletionTag.kinds {
        case CompletionTag.transfer: completeTransfer(TransferIndex(raw: index), result)
        case CompletionTag.table: completeTable(TableLoadIndex(raw: index), result)
        case CompletionTag.sync: completeSync(result)
        case CompletionTag.wakeup: onWakeup()
        default: completeLoad(ClusterLoadIndex(raw: index), result)
        }
        if !waitingForResources.isEmpty { resumeWaiting() }
    }

    /// The caller's memory of a request.
    @inline(__always) func memory(of request: RequestIndex) -> RequestMemory {
        return RequestMemory(
            base: requests[request].base, iovecs: requests[request].iovecs,
            count: Int(requests[request].iovecCount))
    }

    @inline(__always) func tag(_ kind: UInt64) -> UInt64 { kind | number }

    @inline(__always) func tag(_ kind: UInt64, _ index: some LinkIndex) -> UInt64 {
        kind | number | UInt64(UInt32(bitPattern: index.raw))
    }
}

/// Bound to the thread of its ring.
@available(*, unavailable) extension RequestEngine: Sendable {}
