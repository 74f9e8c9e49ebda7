// What a write must wait for: a table that must exist first, refcounts that are on the disk, a longer file. One
// helper thread does all of it, with plain reads and writes.

public import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

extension QCOW2Writer {
    /// What the helper thread must do before a write can go on.
    public enum Prerequisite: Hashable, Sendable {
        /// Make, or copy, the L2 table of an L1 entry (its index).
        case table(Int)
        /// Load a refcount block (its index in the refcount table).
        case block(Int)
        /// Make the file longer.
        case room
        /// Mark the header and bitmaps before the first write.
        case preparation
        /// Mark the image corrupt.
        case corruption
        /// Write changes back, so that L2 slices may leave memory.
        case writeBack
    }

    /// Does what `begin` wanted. By one thread at a time, the one that also calls `writeBack`.
    public func satisfy(_ prerequisite: Prerequisite, _ storage: some ResizableStorage) throws(ImageError) {
        switch prerequisite {
        case .table(let index): try makeTable(index, storage)
        case .block(let b):
            let place = state.withLock { $0.clusters.offset(ofBlock: b) }
            let bytes = try storage.readAll(
                at: place, count: Int(map.clusterSize), what: "a refcount block")
            state.withLock { $0.clusters.supply(b, bytes) }
        case .room: try makeRoom(storage)
        case .preparation: try prepare(storage)
        case .corruption:
            guard header.version >= 3 else { return }
            let features = header.incompatible.union(.corrupt).rawValue
            try storage.write(at: HostOffset(72), bigEndian(features))
            try sync(storage)
        case .writeBack: return
        }
    }

    /// The file is longer than all that is allocated, and by a good step, so that few writes wait for it.
    private func makeRoom(_ storage: some ResizableStorage) throws(ImageError) {
        try requireWholeFile(storage)
        while true {
            guard let target = state.withLock({ $0.clusters.nextLength }) else { return }
            do throws(ImageError) {
                try storage.truncate(to: target)
            } catch {
                // A limit for this file, or a quota. What is needed may still have room: smaller steps, then no more
                // than that.
                guard [EFBIG, ENOSPC, EDQUOT].contains(error.answer),
                    state.withLock({ $0.clusters.refuseFileGrowth() })
                else { throw error }
                continue
            }
            return state.withLock { $0.clusters.setFileLength(target) }
        }
    }

    /// Unused growth is given back. Only when no write can come any more.
    public func trim(_ storage: some ResizableStorage, startLength: UInt64) throws(ImageError) {
        let (end, length) = state.withLock { ($0.clusters.endOffset, $0.clusters.file.length) }
        let wanted = max(end, startLength)
        guard canGrow, length > wanted else { return }
        try storage.truncate(to: wanted)
        state.withLock { $0.clusters.setFileLength(wanted) }
    }

    /// Throws when the file is shorter than it was made: it was cut. From then on nothing is written, and nothing
    /// read that this file has: were it to grow again, what was lost would read as zeros.
    func requireWholeFile(_ storage: some ResizableStorage) throws(ImageError) {
        guard canGrow else { return }
        let least = state.withLock { $0.clusters.file.length }
        let present = try storage.presentLength()
        guard present < least else { return }
        foundCut()
        throw ImageError(
            .malformed, "the file was cut while it was in use: it had \(least) bytes and has \(present)",
            advice: "its end is lost", number: EIO)
    }

    // MARK: L2 tables

    /// A new table, all unallocated, or a copy of one that a snapshot shares. It is whole on the disk before L1 names it,
    /// here and there.
    func makeTable(_ index: Int, _ storage: some ResizableStorage) throws(ImageError) {
        let old = MappingWord(map.l1[index])
        guard !old.isDamaged, old.raw & MappingWord.copied == 0 else { return }
        let size = Int(map.clusterSize)
        var bytes = [UInt8](repeating: 0, count: size)
        if old.offset != 0 {
            bytes = try storage.readAll(at: HostOffset(old.offset), count: size, what: "an L2 table")
            // What a snapshot shares has two owners.
            let stride = map.rules.subclusters ? 16 : 8
            if !map.rules.external { for i in Swift.stride(from: 0, to: size, by: stride) { bytes[i] &= 0x7f } }
        }
        let place = HostOffset(try allocateTable(storage))
        do throws(ImageError) { try storage.write(at: place, bytes) } catch {
            state.withLock { _ = try? $0.clusters.release(place.bytes >> map.clusterBits) }
            throw error
        }
        state.withLock { state in
            if old.offset != 0 {
                state.changes.drop(DroppedReference(cluster: old.offset >> map.clusterBits, isTable: true))
            }
            // No entry that is loaded from here on may name it.
            map.guarded.withLock { _ = $0.tables.insert(place.bytes >> map.clusterBits) }
            state.changes.changeL1(index, place.bytes | MappingWord.copied, map)
            let slices = 1 << Int(map.coverageBits - map.sliceCoverageBits)
            for slice in index * slices..<(index + 1) * slices { map.cache.outdate(slice) }
        }
    }

    private func allocateTable(_ storage: some ResizableStorage) throws(ImageError) -> UInt64 {
        while true {
            let result: Result<UInt64, RefcountObstacle> = state.withLock { state in
                do throws(RefcountObstacle) {
                    let cluster = try state.clusters.allocateTable()
                    growEnds(state)
                    return .success(cluster << map.clusterBits)
                } catch { return .failure(error) }
            }
            switch result {
            case .success(let place):
                let isThere = state.withLock { $0.clusters.requireFileLength(place + map.clusterSize) }
                guard canGrow, !isThere else { return place }
                do throws(ImageError) { try makeRoom(storage) } catch {
                    state.withLock { _ = try? $0.clusters.release(place >> map.clusterBits) }
                    throw error
                }
                return place
            case .failure(.block(let b)): try satisfy(.block(b), storage)
            case .failure(.full): throw ImageError(.system, "there is no room for another table", number: ENOSPC)
            case .failure(.corrupt(let cluster)):
                state.withLock { state in
                    state.status.closeAsCorrupt()
                    state.prerequisites.add(.corruption)
                }
                throw .malformed(
                    "a free cluster holds metadata: the image is corrupt", at: HostOffset(cluster << map.clusterBits),
                    advice: "repair it with qblk check -r all")
            }
        }
    }

    // MARK: before the first write

    /// Bitmaps that should follow every write are marked as behind, unknown autoclear features are cleared
    /// (specification: "autoclear_features", "Bitmap directory entry", in_use).
    private func prepare(_ storage: some ResizableStorage) throws(ImageError) {
        guard !state.withLock({ $0.status.isPrepared }) else { return }
        var features = header.autoclear.intersection([.bitmaps, .rawExternalData])
        if header.autoclear.contains(.bitmaps), let directory = bitmapDirectory {
            do throws(ImageError) { try markBitmaps(directory, storage) } catch {
                // A directory that cannot be read cannot be marked: the bitmaps are dropped.
                features.remove(.bitmaps)
            }
            try sync(storage)
        }
        if features != header.autoclear {
            try storage.write(at: HostOffset(88), bigEndian(features.rawValue))
            try sync(storage)
        }
        state.withLock { $0.status.finishPreparation() }
    }

    private func markBitmaps(
        _ directory: HeaderExtensions.BitmapsPointer, _ storage: some ResizableStorage
    ) throws(ImageError) {
        guard !bitmaps.isEmpty else { throw .malformed("the bitmap directory cannot be read") }
        let bytes = BigEndianBytes(
            try storage.readAll(
                at: directory.directory, count: Int(directory.directoryBytes), what: "the bitmap directory"))
        var at = 0
        for _ in bitmaps {
            let flags = try bytes.u32(at: at + 12)
            if flags & 2 != 0, flags & 1 == 0 {
                try storage.write(
                    at: directory.directory + UInt64(at + 12), bigEndian(flags | 1))
            }
            let size = 24 + Int(try bytes.u32(at: at + 20)) + Int(try bytes.u16(at: at + 18))
            at += (size + 7) & ~7
        }
    }
}
