// The L1 table of an open image, whole in memory, and the lengths of its files. All workers read both without a lock
// while one writer changes an entry now and then; as the file grows, entries that were wrong once become right.

import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The L1 table, judged, in host byte order.
@safe final class L1Table: Sendable {
    let count: Int
    private nonisolated(unsafe) let words: UnsafeMutablePointer<Atomic<UInt64>>

    init?(_ table: ContiguousArray<UInt64>) {
        count = table.count
        guard let memory = unsafe calloc(max(table.count, 1), 8) else { return nil }
        unsafe words = memory.assumingMemoryBound(to: Atomic<UInt64>.self)
        for (i, word) in table.enumerated() { unsafe words[i].store(word, ordering: .relaxed) }
    }

    deinit { unsafe free(words) }

    /// An entry; the index must be in range, as those of offsets inside the disk are.
    @inline(__always) subscript(_ i: Int) -> UInt64 {
        precondition(i >= 0 && i < count)
        return unsafe words[i].load(ordering: .acquiring)
    }

    func set(_ i: Int, _ word: UInt64) {
        precondition(i >= 0 && i < count)
        unsafe words[i].store(word, ordering: .releasing)
    }
}

/// Lengths that entries are judged by. They only grow.
final class FileEnds: Sendable {
    private let file: Atomic<UInt64>
    private let data: Atomic<UInt64>

    init(file: UInt64, data: UInt64) {
        self.file = Atomic(file)
        self.data = Atomic(data)
    }

    /// The files are not believed any more: no entry may name a place in them.
    func lose() { isLost.store(true, ordering: .relaxed) }
    private let isLost = Atomic<Bool>(false)

    func grow(file end: UInt64) { file.max(end, ordering: .relaxed) }
    func grow(data end: UInt64) { data.max(end, ordering: .relaxed) }

    /// The rules as of now.
    func current(_ rules: EntryValidator, guarded: ForbiddenClusters) -> EntryValidator {
        var now = rules
        now.guarded = guarded
        now.fileLength = file.load(ordering: .relaxed)
        now.dataLength = data.load(ordering: .relaxed)
        if isLost.load(ordering: .relaxed) { (now.fileLength, now.dataLength) = (0, 0) }
        return now
    }
}
