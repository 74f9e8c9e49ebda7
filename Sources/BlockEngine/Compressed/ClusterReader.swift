// Compressed clusters take a detour: read the stream, decode it, copy what was asked for. The
// detour is shared by everybody who wants the same cluster, and what goes wrong on it stays with them.
import ClusterCodec
import DiskTypes
import Glibc
import LinuxIO

/// A compressed stream on its way.
struct ClusterLoad: BitwiseCopyable {
    /// The cache entry it will fill.
    var entry: Int32 = none
    var got: UInt32 = 0
    var retries: UInt32 = 0
    var buffer: UnsafeMutableRawPointer?
    var capacity = 0
}

/// The streams on their way; their buffers grow to what the image needs, once.
struct ClusterLoads {
    let records: UnsafeMutablePointer<ClusterLoad>
    let count: Int
    private var list: FreeList

    init(count: Int) {
        self.count = count
        records = slab(count, of: ClusterLoad())
        list = FreeList(count: count)
    }

    @inline(__always) var available: Int { list.available }

    mutating func take(entry: Int32, length: Int) -> Int32 {
        let index = list.take()
        let record = records + Int(index)
        record.pointee.entry = entry
        record.pointee.got = 0
        record.pointee.retries = 0
        if record.pointee.capacity < length {
            record.pointee.buffer?.deallocate()
            // Streams of one image have similar sizes: whole 64 KiB steps, so that few buffers grow twice.
            let capacity = (length + 0xffff) & ~0xffff
            record.pointee.buffer = .allocate(byteCount: capacity, alignment: 4096)
            record.pointee.capacity = capacity
        }
        return index
    }
    mutating func give(_ index: Int32) { list.give(index) }

    func free() {
        for i in 0..<count { records[i].buffer?.deallocate() }
        records.deallocate()
        list.free()
    }
}

extension RequestEngine {
    /// The largest cluster a format has, and twice that for its stream: QCOW2's descriptor cannot say more.
    static var largestCluster: Int { 2 << 20 }
    static var largestStream: UInt32 { 4 << 20 }

    /// The bytes of a compressed extent at the request's cursor. False: the request waits for resources.
    func submitCompressed(_ extent: Extent, _ request: Int32) -> Bool {
        let record = requests + Int(request)
        let size = chain.clusterSize(ofLayer: extent.layer)
        let into = extent.guest.bytes &- extent.clusterStart.bytes
        guard Int(extent.file) < fileCount, size > 0, size <= RequestEngine.largestCluster,
            extent.hostLength > 0, extent.hostLength <= RequestEngine.largestStream,
            into < UInt64(size), extent.length <= UInt64(size) &- into
        else {
            fail(request, EIO)
            return true
        }
        let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
        let length = Int(truncatingIfNeeded: extent.length)
        let key = ClusterKey(extent)
        var entry = clusters.find(key)
        if entry >= 0, !clusters.records[Int(entry)].isLoading {
            statistics.cacheHits &+= 1
            clusters.touch(entry)
            copyCluster(entry, from: Int(into), request, at: at, length: length)
            record.pointee.cursor &+= extent.length
            return true
        }
        guard freeTransfers.available > reservedTransfers, entry >= 0 || loads.available > 0 else {
            return waitForResources(request)
        }
        if entry >= 0 {
            statistics.cacheJoins &+= 1
        } else {
            entry = clusters.make(key, size: size)
            guard entry >= 0 else { return waitForResources(request) }
            sendLoad(loads.take(entry: entry, length: Int(extent.hostLength)))
        }
        let transfer = takeTransfer(for: request)
        let waiting = transfers + Int(transfer)
        waiting.pointee.kind = .cluster
        waiting.pointee.at = at
        waiting.pointee.left = length
        waiting.pointee.host = into
        clusters.records[Int(entry)].waiters.push(transfer, in: transfers)
        record.pointee.cursor &+= extent.length
        return true
    }

    @inline(__always) private func copyCluster(
        _ entry: Int32, from: Int, _ request: Int32, at: Int, length: Int
    ) {
        guard let bytes = clusters.records[Int(entry)].bytes else { return fail(request, EIO) }
        memory(of: request).copy(bytes + from, at: at, length: length)
    }

    // MARK: streams

    private func sendLoad(_ load: Int32) {
        if !prepareLoad(load) { backlog.push(tag(CompletionTag.cluster, load)) }
    }

    /// Streams come through the page cache: they are packed without regard to blocks, and neighbours share them.
    func prepareLoad(_ load: Int32) -> Bool {
        let record = loads.records + Int(load)
        let key = clusters.records[Int(record.pointee.entry)].key
        let got = record.pointee.got
        // Every load that was taken has a buffer.
        return ring.prepareRead(
            fd: files[Int(key.file)].buffered, buffer: record.pointee.buffer.unsafelyUnwrapped + Int(got),
            count: key.length &- got, offset: key.host &+ UInt64(got), userData: tag(CompletionTag.cluster, load))
    }

    func completeLoad(_ load: Int32, _ result: Int32) {
        let record = loads.records + Int(load)
        let entry = record.pointee.entry
        let key = clusters.records[Int(entry)].key
        if result == -EAGAIN || result == -EINTR, record.pointee.retries < RequestEngine.retryLimit {
            record.pointee.retries &+= 1
            statistics.retries &+= 1
            return sendLoad(load)
        }
        if result > 0 {
            record.pointee.got &+= UInt32(bitPattern: result)
            record.pointee.retries = 0
            if record.pointee.got < key.length { return sendLoad(load) }
        }
        // The length is rounded up to sectors: a file that ends before it is no error, a stream that does is.
        let error = result < 0 ? 0 &- result : decode(load, entry)
        loads.give(load)
        deliver(entry, error)
    }

    /// 0, or the errno for everybody who waits for the cluster.
    private func decode(_ load: Int32, _ entry: Int32) -> Int32 {
        let record = loads.records[Int(load)]
        let cluster = clusters.records[Int(entry)]
        statistics.clustersDecoded &+= 1
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
    private func deliver(_ entry: Int32, _ error: Int32) {
        var waiters = clusters.records[Int(entry)].waiters.takeAll()
        var served = IndexQueue()
        if error == 0 { clusters.ready(entry) } else { clusters.remove(entry) }
        while !waiters.isEmpty {
            let transfer = waiters.pop(from: transfers)
            let part = transfers[Int(transfer)]
            if error == 0 {
                copyCluster(
                    entry, from: Int(truncatingIfNeeded: part.host), part.request, at: part.at, length: part.left)
            }
            served.push(transfer, in: transfers)
        }
        while !served.isEmpty { release(served.pop(from: transfers), error: error) }
    }
}
