// The engine turns requests for guest bytes, which every door has (a FUSE queue, a virtqueue, an offline verb), into
// transfers of host files. It knows no formats and no doors. Its data path takes no lock, allocates nothing, throws
// nothing: what a request needs exists before the first one comes.
public import DiskTypes
import Glibc
public import ImageChain
public import LinuxIO

/// Carries the requests for one image on one thread.
///
/// The engine shares a `Ring` with its owner: completions whose user data has bit 63 set are the engine's and go to
/// `complete`, all others are the owner's. The engine only prepares entries; the owner submits and drains:
///
///     engine.submitRead(slot: 3, guest: GuestOffset(0), buffer: memory, length: 4096)
///     engine.submit()
///     ring.submitAndWait(1)
///     ring.drain { userData, result in
///         if RequestEngine.owns(userData) { engine.complete(userData, result) } else { ... }
///     }
///     while let done = engine.nextFinished() { ... }
///
/// Requests that are taken in are gathered: `submit()` sends them, once a pass. Some are finished by then (zeros, cached
/// clusters): ask `nextFinished` before waiting, always. Not `Sendable`: make it, use it and drop it on the ring's
/// thread, once nothing is in flight.
///
/// What a request needs on its way is in components (`PageCacheIO`, `TransferQueue`, `L2TableLoader` and so on). Each has its
/// own state, none calls the engine: it returns what comes next, or puts requests into a queue.
public final class RequestEngine {
    let chain: ImageChain
    /// The door's requests by their numbers; behind them those that read what allocating writes must copy.
    let requests: RecordTable<Request>
    let requestCount: Int
    /// The file of `ImageChain.plainOffset`.
    let plainFile: UInt16
    let maxIovecs: Int

    var transfers: TransferQueue
    /// Requests that were taken in and continue each other.
    var merger = RequestMerger()
    /// What goes without the ring: reads and writes of pages that are in memory.
    var pageCache: PageCacheIO
    var tables: L2TableLoader
    var clusters: ClusterReader
    var flushes = FlushQueue()
    var zeroModes: ZeroModes
    /// What allocates; nil for images whose mapping never changes.
    let allocations: AllocatingWrites?
    /// Counts requests in flight for the image's writer.
    let counts: InFlightCounts?
    /// The first write asks whether it may.
    var isPrepared: Bool

    /// Requests that advance next.
    var ready = IndexQueue<Request>()
    var finished = IndexQueue<Request>()
    /// Requests that wait for a transfer or a buffer, first come first served. What they wait for is free once nothing is in
    /// flight, so that the first of them always goes on.
    var waitingForResources = IndexQueue<Request>()

    /// Writes are on the medium before they are answered.
    public var writeThrough = false {
        didSet {
            transfers.isDurable = writeThrough
            pageCache.mayWrite = writesInline && !writeThrough
        }
    }
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
    ///   - chain: the image, which must stay open as long as the engine.
    ///   - ring: the ring of this thread, which the engine shares with its owner.
    ///   - count: how many requests can be in flight; their numbers are `0..<slots`.
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
        guard let zeros = unsafe SharedZeros.memory else { throw ImageError(.system, "no memory for zeros") }
        self.chain = chain
        plainFile = chain.activeDataFile
        requestCount = count
        self.maxIovecs = maxIovecs
        let allocations = try AllocatingWrites(chain, requests: count)
        self.allocations = allocations
        counts = allocations.map { $0.writer.counts(of: $0.client) }
        isPrepared = allocations?.writer.plan.isPrepared ?? true
        let allocationCount = allocations?.count ?? 0
        requests = RecordTable(count: count + allocationCount, of: Request())
        zeroModes = ZeroModes(isRaw: chain.isRaw)
        pageCache = PageCacheIO(chain, maxIovecs: maxIovecs, helper: helper)
        tables = L2TableLoader(count: min(count, 64), fileCount: chain.files.count)
        clusters = ClusterReader(count: min(count, 32), bytes: decodedCacheBytes, fileCount: chain.files.count)
        // Most requests are one extent; the rest waits a moment rather than cost memory always.
        transfers = unsafe TransferQueue(
            count: min(max(count * 2, 64), 65536) + allocationCount, reserved: allocationCount,
            others: tables.count + clusters.count + 2, files: chain.files.count, maxIovecs: maxIovecs,
            bounces: chain.files.contains { $0.directFD >= 0 } ? 16 : 0, ring: ring, number: number, zeros: unsafe zeros
        )
        // Clusters smaller than a page share it: tables go through the page cache, so all does.
        let canBypass = allocations == nil || chain.clusterSize(ofLayer: 0) >= 4096
        for (i, file) in chain.files.enumerated() {
            let index = UInt16(i)
            // What a disk needs more than its size is a fraction of a per cent, and some clusters of snapshots.
            let growth = index == plainFile && chain.isWritable ? chain.size &+ chain.size / 32 &+ 64 << 20 : 0
            transfers.files[index] = DataFile(file, direct: canBypass)
            transfers.files[index].keep(in: ring)
            pageCache.files[index] = PageCacheFile(
                file, isDirect: transfers.files[index].isDirect, room: seesPages ? growth : nil)
        }
    }

    deinit {
        // Dropped with transfers in flight, the kernel may still write into these buffers: better lost than reused.
        for i in 0..<requestCount {
            let state = requests[RequestIndex(i)].state
            guard state == .free || state == .finished else { return }
        }
        requests.deallocate()
        allocations?.end()
        transfers.deallocate()
        merger.free()
        pageCache.free()
        tables.free()
        clusters.free()
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

    /// A request that is done, in the order they were done.
    public struct Finished: Sendable {
        /// The door's number for the request.
        public let slot: UInt32
        /// 0, or the errno to answer with.
        public let error: Int32
        /// Why, when the image's mapping is what is wrong.
        public let damage: MapDamage?
    }

    /// Takes in a completion of the ring that `owns` recognises.
    public func complete(_ userData: UInt64, _ result: Int32) {
        let index = CompletionTag.index(userData)
        switch userData & CompletionTag.kinds {
        case CompletionTag.transfer: completeTransfer(TransferIndex(raw: index), result)
        case CompletionTag.table: completeTable(TableLoadIndex(raw: index), result)
        case CompletionTag.sync: completeSync(result)
        case CompletionTag.wakeup: onWakeup()
        default: completeStream(ClusterLoadIndex(raw: index), result)
        }
        if !ready.isEmpty || !waitingForResources.isEmpty || mayBeginAllocating { advanceReady(resumesWaiting: true) }
    }
}

/// Bound to the thread of its ring.
@available(*, unavailable) extension RequestEngine: Sendable {}
