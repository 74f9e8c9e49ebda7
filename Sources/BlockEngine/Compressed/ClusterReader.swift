// Compressed clusters take a detour: read the stream, decode it, copy what was asked for. The
// detour is shared by everybody who wants the same cluster, and what goes wrong on it stays with them.
import ClusterCodec
import DiskTypes
import Glibc
import LinuxIO

/// A compressed stream on its way.
struct ClusterLoad: TableRecord {
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
            records[index].buffer?.deallocate()
            // Streams of one image have similar sizes: whole 64 KiB steps, so that few buffers grow twice.
            let capacity = (length + 0xffff) & ~0xffff
            records[index].buffer = .allocate(byteCount: capacity, alignment: 4096)
            records[index].capacity = capacity
        }
        return index
    }
    mutating func give(_ index: ClusterLoadIndex) { list.give(index) }

    func free() {
        for i in 0..<count { records[ClusterLoadIndex(i)].buffer?.deallocate() }
        records.deallocate()
        list.free()
    }
}

extension RequestEngine {
    /// The largest cluster a format has, and twice that for its stream: QCOW2's descriptor cannot say more.
    static var largestCluster: Int { 2 << 20 }
    static var largestStream: UInt32 { 4 << 20 }

    /// The bytes of a compressed extent at the request's cursor. False: the request waits for resources.
    func submitCompressed(_ extent: Extent, _ request: RequestIndex) -> Bool {
        let size = chain.clusterSize(ofLayer: extent.layer)
        let into = extent.guest.bytes &- extent.clusterStart.bytes
        guard Int(extent.file) < fileCount, size > 0, size <= RequestEngine.largestCluster,
            extent.hostLength > 0, extent.hostLength <= RequestEngine.largestStream,
            into < UInt64(size), extent.length <= UInt64(size) &- into
        else {
            fail(request, EIO)
            return true
        }
        let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
        let length = Int(truncatingIfNeeded: extent.length)
        let key = ClusterKey(extent)
        var entry = clusters.find(key)
        if entry.exists, !clusters.records[entry].isLoading {
            counters.cacheHits &+= 1
            clusters.touch(entry)
            copyCluster(entry, from: Int(into), request, at: at, length: length)
            requests[request].cursor &+= extent.length
            return true
        }
        guard freeTransfers.available > reservedTransfers, entry.exists || loads.available > 0 else {
            return waitForResources(request)
        }
        if entry.exists {
            counters.cacheJoins &+= 1
        } else {
            entry = clusters.make(key, size: size)
            guard entry.exists else { return waitForResources(request) }
            sendLoad(loads.take(entry: entry, length: Int(extent.hostLength)))
        }
        let transfer = takeTransfer(for: request)
        transfers[transfer].kind = .cluster
        transfers[transfer].at = at
        transfers[transfer].left = length
        transfers[transfer].host = into
        clusters.records[entry].waiters.push(transfer, in: transfers)
        requests[request].cursor &+= extent.length
        return true
    }

    @inline(__always) private func copyCluster(
        _ entry: CachedClusterIndex, from: Int, _ request: RequestIndex, at: Int, length: Int
    ) {
        guard let bytes = clusters.records[entry].bytes else { return fail(request, EIO) }
        memory(of: request).copy(bytes + from, at: at, length: length)
    }

    // MARK: streams

    private func sendLoad(_ load: ClusterLoadIndex) {
        if !prepareLoad(load) { backlog.push(tag(CompletionTag.cluster, load)) }
    }

    /// Streams come through the page cache: they are packed without regard to blocks, and neighbours share them.
    func prepareLoad(_ load: ClusterLoadIndex) -> Bool {
        let key = clusters.records[loads.records[load].entry].key
        let got = loads.records[load].got
        // Every load that was taken has a buffer.
        return ring.prepareRead(
            fd: files[key.file].buffered, buffer: loads.records[load].buffer.unsafelyUnwrapped + Int(got),
            count: key.length &- got, offset: key.host &+ UInt64(got), userData: tag(CompletionTag.cluster, load))
    }

    func completeLoad(_ load: ClusterLoadIndex, _ result: Int32) {
        let entry = loads.records[load].entry
        let key = clusters.records[entry].key
        if result == -EAGAIN || result == -EINTR, loads.records[load].retries < RequestEngine.retryLimit {
            loads.records[load].retries &+= 1
            counters.retries &+= 1
            return sendLoad(load)
        }
        if result > 0 {
            loads.records[load].got &+= UInt32(bitPattern: result)
            loads.records[load].retries = 0
            if loads.records[load].got < key.length { return sendLoad(load) }
        }
        // The length is rounded up to sectors: a file that ends before it is no error, a stream that does is.
        let error = result < 0 ? 0 &- result : decode(load, entry)
        loads.give(load)
        deliver(entry, error)
    }

    /// 0, or the errno for everybody who waits for the cluster.
    private func decode(_ load: ClusterLoadIndex, _ entry: CachedClusterIndex) -> Int32 {
        let record = loads.records[load]
        let cluster = clusters.records[entry]
        counters.clustersDecoded &+= 1
        if decoder == nil { decoder = ClusterDecoder() }
        guard let decoder else { return ENOMEM }
        let decoded = decoder.decode(
            chain.compression(ofLayer: cluster.key.layer),
            from: UnsafeRawBufferPointer(start: record.buffer, count: Int(record.got)),
            into: UnsafeMutableRawBufferPointer(start: cluster.bytes, count: cluster.size))
        return decoded ? 0 : EIO
    }

    /// Hands a cluster to all that wait for it. A broken one is not kept, so the next reader tries again.
    ///
    /// Who gets its bytes may be an allocating write, whose end lets others go on, and they may want this cluster again, or
    /// the room that it takes: the entry is done with before the first of them is told.
    private func deliver(_ entry: CachedClusterIndex, _ error: Int32) {
        var waiters = clusters.records[entry].waiters.takeAll()
        var served = IndexQueue<Transfer>()
        if error == 0 { clusters.ready(entry) } else { clusters.remove(entry) }
        while !waiters.isEmpty {
            let transfer = waiters.pop(from: transfers)
            let part = transfers[transfer]
            if error == 0 {
                copyCluster(
                    entry, from: Int(truncatingIfNeeded: part.host), part.request, at: part.at, length: part.left)
            }
            served.push(transfer, in: transfers)
        }
        while !served.isEmpty { release(served.pop(from: transfers), error: error) }
    }
}
