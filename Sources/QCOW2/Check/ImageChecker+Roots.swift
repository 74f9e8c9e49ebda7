// What hangs on the header besides the refcounts: the active L1 table, snapshots and theirs, bitmaps, the LUKS
// header. Each belongs to one user; where two claim a cluster, at least one of them is wrong.

import DiskTypes

/// An L1 table to walk.
struct L1Root {
    let offset: HostOffset
    let entries: UInt64
    let isActive: Bool
    /// Bytes of its disk.
    let diskSize: UInt64
    /// For messages: "the L1 table", "the L1 table of snapshot 3".
    let name: String
}

extension ImageChecker {
    /// Counts them, and says which L1 tables can be followed.
    func claimRoots() throws(ImageError) -> [L1Root] {
        let active = L1Root(
            offset: header.l1Offset, entries: UInt64(header.l1Entries), isActive: true,
            diskSize: header.diskSize, name: "the L1 table")
        // The active table is followed even where something overlaps it: it is what the guest sees.
        _ = try claim(active.offset, bytes: active.entries * 8, as: .unique, active.name)
        var roots = [active]
        roots += try claimSnapshots()
        try claimEncryptionHeader()
        try claimBitmaps()
        return roots
    }

    private func claimSnapshots() throws(ImageError) -> [L1Root] {
        guard header.snapshotCount > 0 else { return [] }
        if header.hasExternalData {
            find(.corruption, "there are snapshots, which an image with an external data file cannot have")
        }
        let (list, bytes): ([Snapshot], UInt64)
        do { (list, bytes) = try SnapshotTable.readWithSize(header, from: storage) } catch {
            guard error.kind == .malformed else { throw error }
            findBroken(error.what, at: error.at)
            return []
        }
        // The file may end before the padding of the last entry.
        _ = try claim(
            header.snapshotsOffset, bytes: bytes, needed: max(bytes, 8) - 7, as: .unique, "the snapshot table")
        var roots: [L1Root] = []
        for (index, snapshot) in list.enumerated() {
            if header.version >= 3, !snapshot.isComplete {
                incompleteSnapshots += 1
                find(.corruption, "snapshot table entry \(index) is incomplete", at: header.snapshotsOffset)
            }
            let root = L1Root(
                offset: snapshot.l1Offset, entries: UInt64(snapshot.l1Entries), isActive: false,
                diskSize: snapshot.diskSize ?? header.diskSize,
                name: "the L1 table of snapshot \(printable(snapshot.id))")
            guard root.entries > 0 else { continue }
            guard root.offset.bytes & (clusterSize - 1) == 0 else {
                findBroken("\(root.name) is not cluster aligned", at: root.offset)
                markDangling(root.offset, bytes: root.entries * 8)
                continue
            }
            guard root.entries * 8 <= Limits.l1Bytes else {
                findBroken("\(root.name) claims \(root.entries) entries, more than possible", at: root.offset)
                continue
            }
            // Not followed where it overlaps: a thousand snapshots that name one table would be a thousand walks.
            let claimed = try claim(root.offset, bytes: root.entries * 8, as: .unique, root.name)
            if claimed == .counted { roots.append(root) }
        }
        return roots
    }

    private func claimEncryptionHeader() throws(ImageError) {
        guard header.encryption == .luks else { return }
        guard let area = extensions.encryptionHeader else {
            return findBroken("the image is encrypted with LUKS but has no LUKS header")
        }
        guard area.offset.bytes & (clusterSize - 1) == 0 else {
            markDangling(area.offset, bytes: area.length)
            return findBroken("the LUKS header is not cluster aligned", at: area.offset)
        }
        guard area.length <= Limits.encryptionHeaderBytes else {
            return findBroken("the LUKS header claims \(area.length) bytes, more than possible", at: area.offset)
        }
        _ = try claim(area.offset, bytes: area.length, as: .unique, "the LUKS header")
    }

    /// Bitmaps count while autoclear bit 0 says that they are right; else they are not used, and they are leaks.
    private func claimBitmaps() throws(ImageError) {
        guard header.autoclear.contains(.bitmaps) else { return }
        if let problem = extensions.bitmapsProblem { return findBroken(problem.what, at: problem.at) }
        guard let pointer = extensions.bitmaps else { return }
        let list: [Bitmap]
        do {
            list = try BitmapDirectory.read(pointer, clusterSize: clusterSize, from: storage)
        } catch {
            guard error.kind != .system else { throw error }
            return findBroken(error.what, at: error.at)
        }
        _ = try claim(pointer.directory, bytes: pointer.directoryBytes, as: .unique, "the bitmap directory")
        for bitmap in list { try claimBitmap(bitmap) }
    }

    private func claimBitmap(_ bitmap: Bitmap) throws(ImageError) {
        let name = "bitmap \"\(printable(bitmap.name))\""
        guard bitmap.table.bytes & (clusterSize - 1) == 0 else {
            markDangling(bitmap.table, bytes: UInt64(bitmap.tableEntries) * 8)
            return findBroken("the table of \(name) is not cluster aligned", at: bitmap.table)
        }
        guard bitmap.tableEntries <= Limits.bitmapTableEntries else {
            return findBroken("\(name) claims \(bitmap.tableEntries) clusters, more than possible", at: bitmap.table)
        }
        let bytes = UInt64(bitmap.tableEntries) * 8
        let claimed = try claim(bitmap.table, bytes: bytes, as: .unique, "the table of \(name)")
        guard claimed == .counted else { return }
        try forEachWord(at: bitmap.table, entries: UInt64(bitmap.tableEntries)) { index, word throws(ImageError) in
            let offset = word & MappingWord.offsetMask
            // Bit 0 without an offset: all ones, without a cluster.
            let reserved = word & ~MappingWord.offsetMask & ~(offset == 0 ? 1 : 0)
            if reserved != 0 { find(.corruption, "entry \(index) of \(name) has reserved bits set", at: bitmap.table) }
            guard offset != 0 else { return }
            guard offset & (clusterSize - 1) == 0 else {
                markDangling(HostOffset(offset), bytes: clusterSize)
                return findBroken("entry \(index) of \(name) is not cluster aligned", at: HostOffset(offset))
            }
            _ = try claim(HostOffset(offset), bytes: clusterSize, as: .unique, "data of \(name)")
        }
    }
}
