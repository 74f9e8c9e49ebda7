// What a writer reads of an image's refcounts before its first write: where their blocks are, and which clusters count as
// used that the file does not have.

import DiskTypes

extension Refcounts {
    /// The refcount table: where each block is in the file, 0 where there is none.
    static func readTable(_ header: Header, _ storage: some ResizableStorage) throws(ImageError) -> [UInt64] {
        let bytes = Int(header.refcountTableClusters) << Int(header.clusterBits)
        let raw = BigEndianBytes(
            try storage.readAll(at: header.refcountTableOffset, count: bytes, what: "the refcount table"))
        var table: [UInt64] = []
        table.reserveCapacity(bytes / 8)
        for i in 0..<bytes / 8 {
            let entry = try raw.u64(at: 8 * i) & ~511
            guard entry & (header.clusterSize - 1) == 0, entry == 0 || entry < storage.length else {
                throw .malformed(
                    "a refcount block lies at an impossible place", at: header.refcountTableOffset + UInt64(8 * i),
                    advice: "repair the image with qblk check -r all")
            }
            table.append(entry)
        }
        return table
    }

    /// Clusters that are counted as used and that the file does not have: it was cut. When it grows again they must not
    /// read as zeros.
    static func clustersPastTheEnd(
        _ header: Header, _ table: [UInt64], _ storage: some ResizableStorage
    ) throws(ImageError) -> Set<UInt64> {
        let end = (storage.length + header.clusterSize - 1) >> UInt64(header.clusterBits)
        let perBlock = UInt64(1) << (UInt64(header.clusterBits) + 3 - UInt64(header.refcountOrder))
        var missing: Set<UInt64> = []
        var blocks = 0
        for b in min(Int(clamping: end / perBlock), table.count)..<table.count where table[b] != 0 {
            blocks += 1
            let block = CachedRefcountBlock(
                try storage.readAll(
                    at: HostOffset(table[b]), count: Int(header.clusterSize), what: "a refcount block"),
                order: Int(header.refcountOrder))
            for i in 0..<block.count where UInt64(b) * perBlock + UInt64(i) >= end && block[i] != 0 {
                missing.insert(UInt64(b) * perBlock + UInt64(i))
            }
            guard missing.count < 1 << 20, blocks < 1024 else {
                throw .malformed(
                    "much of what is counted as used lies past the end of the file: the image is truncated",
                    advice: "open it read-only (-r)")
            }
        }
        return missing
    }
}
