// An image made with preallocation=metadata maps every cluster, though none was written: it is the file's holes that
// say what is zero. Asking the file system for each extent is slow, so QEMU first looks whether the image's refcounts
// claim more clusters than the file has space for; `extents` follows the same rule.

import DiskTypes
import LinuxIO
import QCOW2

enum Preallocation {
    /// Whether at least 10 % (and 2) more clusters are counted than allocated.
    static func isLikely(_ header: Header, _ file: HostFile) -> Bool {
        do throws(ImageError) {
            let clusterSize = header.clusterSize
            let allocated = try file.diskUsage() / clusterSize
            let threshold = max(allocated * 10 / 9, allocated + 2)
            let clusters = (file.length + clusterSize - 1) / clusterSize
            guard clusters >= threshold else { return false }
            return try used(header, file, clusters: clusters, upTo: threshold) >= threshold
        } catch {
            return false
        }
    }

    /// How many of the file's clusters have a refcount, counted no further than `limit`.
    private static func used(
        _ header: Header, _ file: HostFile, clusters: UInt64, upTo limit: UInt64
    ) throws(ImageError) -> UInt64 {
        let perBlock = (header.clusterSize * 8) >> UInt64(header.refcountOrder)
        let tableBytes = UInt64(header.refcountTableClusters) * header.clusterSize
        let blocks = min(tableBytes / 8, (clusters + perBlock - 1) / perBlock)
        let table = BigEndianBytes(
            try file.readAll(at: header.refcountTableOffset, count: Int(blocks * 8), what: "the refcount table"))
        var count: UInt64 = 0
        for index in 0..<blocks where count < limit {
            let block = try table.u64(at: Int(index * 8)) & ~511
            guard block != 0 else { continue }
            guard block & (header.clusterSize - 1) == 0 else { return 0 }
            let bytes = try file.read(at: HostOffset(block), count: Int(header.clusterSize))
            let entries = min(perBlock, clusters - index * perBlock)
            count += nonZero(bytes, entries: Int(entries), order: Int(header.refcountOrder))
        }
        return count
    }

    /// How many of the first `entries` refcounts of 2^order bits are not 0. Narrow ones fill bytes from the low bit.
    static func nonZero(_ bytes: [UInt8], entries: Int, order: Int) -> UInt64 {
        var count: UInt64 = 0
        if order >= 3 {
            let width = 1 << (order - 3)
            for entry in 0..<min(entries, bytes.count / width)
            where bytes[(entry * width)..<(entry * width + width)].contains(where: { $0 != 0 }) { count += 1 }
            return count
        }
        let perByte = 8 >> order
        let mask = UInt8((1 << (1 << order)) - 1)
        for entry in 0..<min(entries, bytes.count * perByte) {
            let shift = UInt8((entry % perByte) << order)
            if bytes[entry / perByte] >> shift & mask != 0 { count += 1 }
        }
        return count
    }
}
