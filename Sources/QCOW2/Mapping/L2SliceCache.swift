// The L2 tables of an image that are in memory, in slices. Every worker looks entries up there millions of times a
// second, so a reader takes no lock and does no atomic read-modify-write: slices are kept in a slab that is never
// unmapped, and a reader loads the directory word, reads entries, and checks that the word is still the same (a
// seqlock for each slice, with a generation). A writer changes entries in place, under the writer's own lock; what it
// has changed stays until it is on the disk.

import DiskTypes
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Slices of L2 tables in host byte order, judged. Bounded; evicts by second chance.
@safe final class L2SliceCache: Sendable {
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
        /// Which table a slot holds.
        var owner: [Int]
        /// How many reasons a slot has to stay.
        var pins: [UInt32]
        var pinned = 0
    }

    /// The low half of a directory word while its slice is being changed.
    private static var busy: UInt64 { 1 << 31 }
    private static var slotBits: UInt64 { 0xffff_ffff }

    let wordsPerSlice: Int
    let tables: Int
    let slots: Int
    /// One word for each slice of the image. Bits 0-30: the slot that has it + 1, 0 where none has; bit 31 (`busy`): an entry
    /// of two words is being changed; bits 32-63: the generation, one more each time the slice comes in, such an entry has
    /// changed, or bytes that were asked for have become old.
    private nonisolated(unsafe) let directory: UnsafeMutablePointer<Atomic<UInt64>>
    /// The slices' words, slot by slot, in host byte order.
    private nonisolated(unsafe) let slab: UnsafeMutablePointer<Atomic<UInt64>>
    /// For each slot, 1 where a reader has used it since the clock's hand came by.
    private nonisolated(unsafe) let touched: UnsafeMutablePointer<Atomic<UInt8>>
    private let clock: Mutex<Clock>

    /// `least`: slices that there is room for whatever the limit says; a writer keeps some in.
    /// nil when the address space for the directory cannot be had.
    init?(tables: Int, wordsPerSlice: Int, byteLimit: UInt64, least: Int = 2) {
        let sliceBytes = UInt64(wordsPerSlice * 8)
        slots = Int(min(UInt64(max(tables, least)), max(UInt64(least), byteLimit / sliceBytes)))
        self.tables = tables
        self.wordsPerSlice = wordsPerSlice
        // calloc, not allocate+initialize: pages of big tables stay untouched until they are used.
        guard let d = unsafe calloc(max(tables, 1), 8), let s = unsafe calloc(slots * wordsPerSlice, 8),
            let t = unsafe calloc(slots, 1)
        else { return nil }
        unsafe directory = d.assumingMemoryBound(to: Atomic<UInt64>.self)
        unsafe slab = s.assumingMemoryBound(to: Atomic<UInt64>.self)
        unsafe touched = t.assumingMemoryBound(to: Atomic<UInt8>.self)
        clock = Mutex(Clock(owner: [], pins: []))
    }

    deinit {
        unsafe free(directory)
        unsafe free(slab)
        unsafe free(touched)
    }

    /// The slice, if it is here. Read entries through the view, then ask `holds`.
    @inline(__always) func view(_ table: Int) -> View? {
        var stamp = unsafe directory[table].load(ordering: .acquiring)
        // One test for both: not here is 0, and in a moment is negative.
        if Int32(truncatingIfNeeded: stamp) <= 0 {
            if stamp & Self.slotBits == 0 { return nil }
            stamp = settled(table)
            if stamp & Self.slotBits == 0 { return nil }
        }
        let slot = Int(truncatingIfNeeded: stamp & Self.slotBits) &- 1
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

    /// The word once the slice is not being changed: that takes a few stores.
    @inline(never) private func settled(_ table: Int) -> UInt64 {
        while true {
            let stamp = unsafe directory[table].load(ordering: .acquiring)
            if stamp & Self.busy == 0 { return stamp }
        }
    }

    /// Tells reads of the same slice apart: see `insert`.
    func generation(_ table: Int) -> UInt32 {
        UInt32(truncatingIfNeeded: unsafe directory[table].load(ordering: .relaxed) >> 32)
    }

    /// Puts a slice in that was asked for at `generation`, unless another worker was faster: then these bytes may be old.
    /// `fill` gives word i.
    func insert(_ table: Int, generation: UInt32, _ fill: (Int) -> UInt64) {
        clock.withLock { clock in
            let before = unsafe directory[table].load(ordering: .relaxed)
            guard before == UInt64(generation) << 32, let slot = takeSlot(&clock, for: table) else { return }
            // The old slice's word is 0 before any of its entries change; readers who saw new entries see that too.
            atomicMemoryFence(ordering: .releasing)
            let words = unsafe slab + slot * wordsPerSlice
            for i in 0..<wordsPerSlice { unsafe words[i].store(fill(i), ordering: .relaxed) }
            unsafe touched[slot].store(1, ordering: .relaxed)
            unsafe directory[table].store(Self.next(before) | UInt64(slot + 1), ordering: .releasing)
        }
    }

    /// The next generation's word, without a slot. Wraps.
    private static func next(_ word: UInt64) -> UInt64 { (word &>> 32 &+ 1) &<< 32 }

    private func takeSlot(_ clock: inout Clock, for table: Int) -> Int? {
        if clock.used < slots {
            clock.used += 1
            clock.owner.append(table)
            clock.pins.append(0)
            return clock.used - 1
        }
        // Second chance, bounded: readers may touch slices again as fast as the hand clears them.
        for round in 0..<(4 * slots) {
            let slot = clock.hand
            clock.hand = (clock.hand + 1) % slots
            guard clock.pins[slot] == 0 else { continue }
            if round < 2 * slots, unsafe touched[slot].load(ordering: .relaxed) != 0 {
                unsafe touched[slot].store(0, ordering: .relaxed)
                continue
            }
            let owner = clock.owner[slot]
            let word = unsafe directory[owner].load(ordering: .relaxed)
            unsafe directory[owner].store(word & ~Self.slotBits, ordering: .relaxed)
            clock.owner[slot] = table
            return slot
        }
        return nil
    }
}

// MARK: changes. All by one thread at a time: the holder of the writer's lock.

extension L2SliceCache {
    /// There is room for every slice of the image: none is ever thrown out.
    var holdsAll: Bool { slots >= tables }
    /// How many slices may be kept from being thrown out: readers need the others.
    var pinLimit: Int { holdsAll ? slots : slots / 2 }

    func slot(_ table: Int) -> Int? {
        let slot = Int(unsafe directory[table].load(ordering: .relaxed) & Self.slotBits) - 1
        return slot >= 0 ? slot : nil
    }

    /// Keeps a slice in. False: it is not here. Nil: too many are kept already.
    func pin(_ table: Int) -> Bool? {
        clock.withLock { clock in
            guard let slot = slot(table) else { return false }
            if clock.pins[slot] == 0 {
                guard clock.pinned < pinLimit else { return nil }
                clock.pinned += 1
            }
            clock.pins[slot] += 1
            return true
        }
    }

    func unpin(_ table: Int) {
        clock.withLock { clock in
            guard let slot = slot(table), clock.pins[slot] > 0 else { return }
            clock.pins[slot] -= 1
            if clock.pins[slot] == 0 { clock.pinned -= 1 }
        }
    }

    /// A word of a pinned slice.
    func word(_ table: Int, _ index: Int) -> UInt64 {
        guard let slot = slot(table) else { return 0 }
        return unsafe slab[slot * wordsPerSlice + index].load(ordering: .relaxed)
    }

    /// Changes a word of a pinned slice. Readers see the old one or the new one.
    func set(_ table: Int, _ index: Int, _ word: UInt64) {
        guard let slot = slot(table) else { return }
        unsafe slab[slot * wordsPerSlice + index].store(word, ordering: .releasing)
    }

    /// Changes two neighbours of a pinned slice. Readers see both old or both new.
    func setPair(_ table: Int, _ index: Int, _ first: UInt64, _ second: UInt64) {
        guard let slot = slot(table) else { return }
        let before = unsafe directory[table].load(ordering: .relaxed)
        unsafe directory[table].store(before | Self.busy, ordering: .relaxed)
        atomicMemoryFence(ordering: .releasing)
        unsafe slab[slot * wordsPerSlice + index].store(first, ordering: .relaxed)
        unsafe slab[slot * wordsPerSlice + index + 1].store(second, ordering: .relaxed)
        unsafe directory[table].store(Self.next(before) | UInt64(slot + 1), ordering: .releasing)
    }

    /// Makes every word of every slice that is here `word`. Readers see the old ones or this one.
    func fillAll(_ word: UInt64) {
        clock.withLock { clock in
            for i in 0..<clock.used * wordsPerSlice { unsafe slab[i].store(word, ordering: .releasing) }
        }
    }

    /// Bytes of a slice that were asked for before this do not come in any more.
    func outdate(_ table: Int) {
        clock.withLock { _ in
            let word = unsafe directory[table].load(ordering: .relaxed)
            if word & Self.slotBits == 0 { unsafe directory[table].store(Self.next(word), ordering: .relaxed) }
        }
    }
}
