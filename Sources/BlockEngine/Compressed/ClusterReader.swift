// The bytes of a compressed cluster come by its stream, which is read and decoded whole. All requests that want the same
// cluster share one read, and an error of it is theirs alone.
import ClusterCodec
import DiskTypes
import Glibc
import ImageChain
import LinuxIO

/// A compressed stream on its way.
@safe struct ClusterLoad: TableRecord {
    typealias Index = ClusterLoadIndex

    /// The cache entry it will fill.
    var entry = CachedClusterIndex.none
    var got: UInt32 = 0
    var retries: UInt32 = 0
    var buffer: UnsafeMutableRawPointer?
    var capacity = 0
}

/// The streams on their way; their buffers grow to what the image needs, once.
struct ClusterLoads: ~Copyable {
    let records: RecordTable<ClusterLoad>
    let count: Int
    private var list: FreeList<ClusterLoadIndex>

    init(count: Int) {
        self.count = count
        records = RecordTable(count: count, of: ClusterLoad())
        list = FreeList<ClusterLoadIndex>(count: count)
    }

    @inline(__always) var available: Int { list.available }

    mutating func take(entry: CachedClusterIndex, length: Int) -> ClusterLoadIndex {
        let index = list.take()
        records[index].entry = entry
        records[index].got = 0
        records[index].retries = 0
        if records[index].capacity < length {
            unsafe records[index].buffer?.deallocate()
            // Streams of one image have similar sizes: whole 64 KiB steps, so that few buffers grow twice.
            let capacity = (length + 0xffff) & ~0xffff
            unsafe records[index].buffer = .allocate(byteCount: capacity, alignment: 4096)
            records[index].capacity = capacity
        }
        return index
    }
    mutating func give(_ index: ClusterLoadIndex) { list.give(index) }

    func free() {
        for i in 0..<count { unsafe records[ClusterLoadIndex(i)].buffer?.deallocate() }
        records.deallocate()
        list.free()
    }
}

/// Where a compressed cluster's bytes are.
@safe enum ClusterAnswer {
    /// Decoded, in memory until the next cluster is asked for.
    case cached(UnsafeMutableRawPointer)
    /// On their way already.
    case loading(CachedClusterIndex)
    /// The stream's read must be sent.
    case started(CachedClusterIndex, ClusterLoadIndex)
    /// The request must wait: all that could hold the cluster is on its way.
    case full
    /// No image says so.
    case malformed
}

/// What came of a stream's read.
@safe enum ClusterOutcome {
    /// The rest of the stream must be asked for.
    case again
    /// The cluster's bytes, in memory until the next cluster is asked for, and the transfers that wait for them.
    case decoded(UnsafeMutableRawPointer, waiters: IndexQueue<Transfer>)
    /// The errno for all that wait.
    case failed(Int32, waiters: IndexQueue<Transfer>)
}

/// Reads and decodes compressed clusters, and keeps some of them.
struct ClusterReader: ~Copyable {
    private var cache: ClusterCache
    private var loads: ClusterLoads
    /// Made for the first compressed cluster: most images have none, and each start of a guest's queue makes an engine.
    private var decoder: ClusterDecoder?
    private let fileCount: Int

    /// The largest cluster a format has, and twice that for its stream, in bytes: QCOW2's descriptor cannot say more.
    private static var largestCluster: Int { 2 << 20 }
    private static var largestStream: UInt32 { 4 << 20 }

    /// `count`: how many streams can be on their way; `bytes`: how much memory decoded clusters may take.
    init(count: Int, bytes: Int, fileCount: Int) {
        cache = ClusterCache(bytes: max(bytes, 0))
        loads = ClusterLoads(count: count)
        self.fileCount = fileCount
    }

    /// How many streams can be on their way.
    var count: Int { loads.count }

    func free() {
        cache.free()
        loads.free()
    }

    /// Looks for the cluster of an extent; `size`: of a cluster in its layer. `mayWait`: a new wait for one is possible.
    mutating func find(_ extent: Extent, size: Int, mayWait: Bool) -> ClusterAnswer {
        let into = extent.guest.bytes &- extent.clusterStart.bytes
        guard Int(extent.file) < fileCount, size > 0, size <= ClusterReader.largestCluster,
            extent.hostLength > 0, extent.hostLength <= ClusterReader.largestStream,
            into < UInt64(size), extent.length <= UInt64(size) &- into
        else { return .malformed }
        let key = ClusterKey(extent)
        var entry = cache.find(key)
        if entry.exists, !cache.records[entry].isLoading {
            cache.touch(entry)
            guard let bytes = unsafe cache.records[entry].bytes else { return .malformed }
            return unsafe .cached(bytes)
        }
        guard mayWait, entry.exists || loads.available > 0 else { return .full }
        if entry.exists { return .loading(entry) }
        entry = cache.make(key, size: size)
        guard entry.exists else { return .full }
        return .started(entry, loads.take(entry: entry, length: Int(extent.hostLength)))
    }

    /// A transfer waits for a cluster that is on its way.
    func wait(for entry: CachedClusterIndex, _ transfer: TransferIndex, in transfers: borrowing RecordTable<Transfer>) {
        cache.records[entry].waiters.push(transfer, in: transfers)
    }

    /// Prepares the read of what a stream lacks. Streams come through the page cache: they are packed without regard to
    /// blocks, and neighbours share them. False: the ring has no room.
    func prepare(
        _ load: ClusterLoadIndex, on ring: Ring, _ files: borrowing RecordTable<DataFile>, userData: UInt64
    ) -> Bool {
        let key = cache.records[loads.records[load].entry].key
        let got = loads.records[load].got
        // Every load that was taken has a buffer.
        return unsafe ring.prepareRead(
            fd: files[key.file].buffered, buffer: loads.records[load].buffer.unsafelyUnwrapped + Int(got),
            count: key.length &- got, offset: key.host &+ UInt64(got), userData: userData)
    }

    /// Takes in the end of a read. A broken cluster is not kept, so the next reader tries again.
    mutating func complete(_ load: ClusterLoadIndex, _ result: Int32, of chain: ImageChain) -> ClusterOutcome {
        let entry = loads.records[load].entry
        if result == -EAGAIN || result == -EINTR, loads.records[load].retries < TransferQueue.retryLimit {
            loads.records[load].retries &+= 1
            return .again
        }
        if result > 0 {
            loads.records[load].got &+= UInt32(bitPattern: result)
            loads.records[load].retries = 0
            if loads.records[load].got < cache.records[entry].key.length { return .again }
        }
        // The length is rounded up to sectors: a file that ends before it is no error, a stream that does is.
        let error = result < 0 ? 0 &- result : decode(load, entry, chain)
        loads.give(load)
        let waiters = cache.records[entry].waiters.takeAll()
        let bytes = unsafe cache.records[entry].bytes
        guard error == 0, let bytes = unsafe bytes else {
            cache.remove(entry)
            return .failed(error != 0 ? error : EIO, waiters: waiters)
        }
        cache.ready(entry)
        return unsafe .decoded(bytes, waiters: waiters)
    }

    /// 0, or the errno for all that wait for the cluster.
    private mutating func decode(_ load: ClusterLoadIndex, _ entry: CachedClusterIndex, _ chain: ImageChain) -> Int32 {
        let stream = loads.records[load]
        let cluster = cache.records[entry]
        if decoder == nil { decoder = ClusterDecoder() }
        guard let decoder else { return ENOMEM }
        let decoded = unsafe decoder.decode(
            chain.compression(ofLayer: cluster.key.layer),
            from: UnsafeRawBufferPointer(start: stream.buffer, count: Int(stream.got)),
            into: UnsafeMutableRawBufferPointer(start: cluster.bytes, count: cluster.size))
        return decoded ? 0 : EIO
    }
}
