// Why this file exists: every worker of an image looks L2 tables up millions of times a second. Slices of tables are
// kept in a slab that is never unmapped; a reader takes no lock and does no atomic read-modify-write: it loads the
// directory word, reads entries, and checks that the word is still the same (a seqlock a slice, with a generation).

import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Slices of L2 tables in host byte order, judged. Bounded; evicts by second chance.
@safe final class TableCache: Sendable {
    /// A slice a reader is looking at. Valid only until the cache says otherwise.
    @safe struct View {
        fileprivate let words: UnsafeMutablePointer<Atomic<UInt64>>
        fileprivate let stamp: UInt64
        fileprivate let table: Int

        @inline(__always) subscript(_ i: Int) -> UInt64 { unsafe words[i].load(ordering: .relaxed) }
    }

    private struct Clock {
        var used = 0
        var hand = 0
        var generation: UInt64 = 0
        /// Which table a slot holds.
        var owner: [Int]
    }

    let wordsPerSlice: Int
    let tables: Int
    let slots: Int
    /// One word a table: slot + 1 in the low half, a generation above; 0 = not here.
    private nonisolated(unsafe) let directory: UnsafeMutablePointer<Atomic<UInt64>>
    private nonisolated(unsafe) let slab: UnsafeMutablePointer<Atomic<UInt64>>
    private nonisolated(unsafe) let touched: UnsafeMutablePointer<Atomic<UInt8>>
    private let clock: Mutex<Clock>

    /// nil when the address space for the directory cannot be had.
    init?(tables: Int, wordsPerSlice: Int, byteLimit: UInt64) {
        let sliceBytes = UInt64(wordsPerSlice * 8)
        slots = Int(min(UInt64(max(tables, 2)), max(2, byteLimit / sliceBytes)))
        self.tables = tables
        self.wordsPerSlice = wordsPerSlice
        // calloc, not allocate+initialize: pages of big tables stay untouched until they are used.
        guard let d = unsafe calloc(max(tables, 1), 8), let s = unsafe calloc(slots * wordsPerSlice, 8),
            let t = unsafe calloc(slots, 1)
        else { return nil }
        unsafe directory = d.assumingMemoryBound(to: Atomic<UInt64>.self)
        unsafe slab = s.assumingMemoryBound(to: Atomic<UInt64>.self)
        unsafe touched = t.assumingMemoryBound(to: Atomic<UInt8>.self)
        clock = Mutex(Clock(owner: []))
    }

    deinit {
        unsafe free(directory)
        unsafe free(slab)
        unsafe free(touched)
    }

    /// The slice, if it is here. Read entries through the view, then ask `holds`.
    @inline(__always) func view(_ table: Int) -> View? {
        let stamp = unsafe directory[table].load(ordering: .acquiring)
        guard stamp != 0 else { return nil }
        let slot = Int(truncatingIfNeeded: stamp & 0xffff_ffff) &- 1
        if unsafe touched[slot].load(ordering: .relaxed) == 0 {
            unsafe touched[slot].store(1, ordering: .relaxed)
        }
        return unsafe View(words: slab + slot &* wordsPerSlice, stamp: stamp, table: table)
    }

    /// Whether everything read through `view` so far was one slice's and the right one's.
    @inline(__always) func holds(_ view: View) -> Bool {
        atomicMemoryFence(ordering: .acquiring)
        return unsafe directory[view.table].load(ordering: .relaxed) == view.stamp
    }

    /// Puts a slice in, unless another worker was faster. `fill` gives word i.
    func insert(_ table: Int, _ fill: (Int) -> UInt64) {
        clock.withLock { clock in
            guard unsafe directory[table].load(ordering: .relaxed) == 0 else { return }
            let slot = takeSlot(&clock, for: table)
            // The old slice's word is 0 before any of its entries change; readers who saw new entries see that too.
            atomicMemoryFence(ordering: .releasing)
            let words = unsafe slab + slot * wordsPerSlice
            for i in 0..<wordsPerSlice { unsafe words[i].store(fill(i), ordering: .relaxed) }
            clock.generation &+= 1
            unsafe touched[slot].store(1, ordering: .relaxed)
            unsafe directory[table].store(clock.generation << 32 | UInt64(slot + 1), ordering: .releasing)
        }
    }

    private func takeSlot(_ clock: inout Clock, for table: Int) -> Int {
        if clock.used < slots {
            clock.used += 1
            clock.owner.append(table)
            return clock.used - 1
        }
        // Second chance, bounded: readers may touch slices again as fast as the hand clears them.
        for _ in 0..<(2 * slots) {
            guard unsafe touched[clock.hand].load(ordering: .relaxed) != 0 else { break }
            unsafe touched[clock.hand].store(0, ordering: .relaxed)
            clock.hand = (clock.hand + 1) % slots
        }
        let slot = clock.hand
        clock.hand = (clock.hand + 1) % slots
        unsafe directory[clock.owner[slot]].store(0, ordering: .relaxed)
        clock.owner[slot] = table
        return slot
    }
}
