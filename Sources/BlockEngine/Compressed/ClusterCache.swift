// A compressed cluster is decoded whole, though guests ask for it in 4 KiB steps. The decoded
// bytes stay here a while, and requests that come while one is on its way join its line instead of decoding it again.
import DiskTypes

/// Which compressed stream: two guest clusters that share one share its decoded bytes too.
struct ClusterKey: Equatable, BitwiseCopyable {
    var host: UInt64
    var length: UInt32
    var layer: UInt16
    var file: UInt16

    init(_ extent: Extent) {
        host = extent.host.bytes
        length = extent.hostLength
        layer = extent.layer
        file = extent.file
    }

    @inline(__always) var hash: UInt64 {
        var x = host &+ UInt64(layer) << 56
        x = (x ^ x >> 29) &* 0x9e37_79b9_7f4a_7c15
        return x >> 20
    }
}

/// One decoded cluster, or the place of one that is on its way.
@safe struct CachedCluster: TableRecord {
    typealias Index = CachedClusterIndex

    var key: ClusterKey
    var bytes: UnsafeMutableRawPointer?
    var size = 0
    /// Not decoded yet: `waiters` (transfers) want it, and it is not in the order of use.
    var isLoading = false
    var waiters = IndexQueue<Transfer>()
    var nextInBucket = CachedClusterIndex.none
    /// Neighbours in the order of use.
    var newer = CachedClusterIndex.none
    var older = CachedClusterIndex.none
}

/// Decoded clusters up to a number of bytes; the one unused for longest goes first.
@safe struct ClusterCache: ~Copyable {
    /// One record and one bucket, empty, before there is a first cluster: most images have none.
    private(set) var records: RecordTable<CachedCluster>
    private var buckets: UnsafeMutablePointer<CachedClusterIndex>
    private var bucketMask: UInt64 = 0
    private var list: FreeList<CachedClusterIndex>
    private var isMade = false
    private let limit: Int
    private(set) var used = 0
    private var newest = CachedClusterIndex.none
    private var oldest = CachedClusterIndex.none

    init(bytes: Int) {
        limit = bytes
        records = RecordTable(count: 1, of: Self.empty)
        unsafe buckets = unsafe slab(1, of: .none)
        list = FreeList<CachedClusterIndex>(count: 0)
    }

    private static var empty: CachedCluster {
        unsafe CachedCluster(key: ClusterKey(Extent(guest: GuestOffset(0), length: 0, kind: .zero)))
    }

    private mutating func grow() {
        isMade = true
        // Images with tiny clusters are rare; they get as many entries as 4 KiB clusters would.
        let count = min(max(limit / 4096, 8), 65536)
        var bucketCount = 16
        while bucketCount < count { bucketCount *= 2 }
        records.deallocate()
        unsafe buckets.deallocate()
        list.free()
        records = RecordTable(count: count, of: Self.empty)
        unsafe buckets = unsafe slab(bucketCount, of: .none)
        bucketMask = UInt64(bucketCount - 1)
        list = FreeList<CachedClusterIndex>(count: count)
    }

    func free() {
        var index = oldest
        while index.exists {
            unsafe records[index].bytes?.deallocate()
            index = records[index].newer
        }
        for i in 0...Int(bucketMask) {
            var index = unsafe buckets[i]
            while index.exists {
                if records[index].isLoading { unsafe records[index].bytes?.deallocate() }
                index = records[index].nextInBucket
            }
        }
        records.deallocate()
        unsafe buckets.deallocate()
        list.free()
    }

    /// The entry of a cluster, decoded or on its way; `none` if there is none.
    @inline(__always) func find(_ key: ClusterKey) -> CachedClusterIndex {
        var index = unsafe buckets[Int(key.hash & bucketMask)]
        while index.exists, records[index].key != key { index = records[index].nextInBucket }
        return index
    }

    /// A new entry of `size` bytes, loading, for a key that has none; `none` while everything is on its way.
    mutating func make(_ key: ClusterKey, size: Int) -> CachedClusterIndex {
        if !isMade { grow() }
        var bytes: UnsafeMutableRawPointer?
        while list.available == 0 || (used &+ size > limit && used > 0) {
            guard oldest.exists else {
                unsafe bytes?.deallocate()
                return .none
            }
            let victim = oldest
            // The usual case: the new one moves into the memory of the old one.
            if unsafe bytes == nil, records[victim].size == size {
                unsafe bytes = unsafe records[victim].bytes
                unsafe records[victim].bytes = nil
            }
            remove(victim)
        }
        let index = list.take()
        records[index].key = key
        records[index].size = size
        unsafe records[index].bytes = unsafe bytes ?? .allocate(byteCount: size, alignment: 64)
        records[index].isLoading = true
        records[index].waiters = IndexQueue<Transfer>()
        used &+= size
        let bucket = Int(key.hash & bucketMask)
        records[index].nextInBucket = unsafe buckets[bucket]
        unsafe buckets[bucket] = index
        return index
    }

    /// The entry is decoded: from now on it may be used, and pushed out.
    mutating func ready(_ index: CachedClusterIndex) {
        records[index].isLoading = false
        append(index)
    }

    /// The entry was used just now.
    @inline(__always) mutating func touch(_ index: CachedClusterIndex) {
        guard newest != index else { return }
        detach(index)
        append(index)
    }

    /// Forgets an entry. One that is loading must have no waiters left.
    mutating func remove(_ index: CachedClusterIndex) {
        if !records[index].isLoading { detach(index) }
        let bucket = Int(records[index].key.hash & bucketMask)
        if unsafe buckets[bucket] == index {
            unsafe buckets[bucket] = records[index].nextInBucket
        } else {
            var before = unsafe buckets[bucket]
            while records[before].nextInBucket != index { before = records[before].nextInBucket }
            records[before].nextInBucket = records[index].nextInBucket
        }
        unsafe records[index].bytes?.deallocate()
        unsafe records[index].bytes = nil
        used &-= records[index].size
        list.give(index)
    }

    // MARK: order of use

    private mutating func append(_ index: CachedClusterIndex) {
        records[index].older = newest
        records[index].newer = .none
        if newest.exists { records[newest].newer = index } else { oldest = index }
        newest = index
    }

    private mutating func detach(_ index: CachedClusterIndex) {
        let record = records[index]
        if record.newer.exists { records[record.newer].older = record.older } else { newest = record.older }
        if record.older.exists { records[record.older].newer = record.newer } else { oldest = record.newer }
    }
}
