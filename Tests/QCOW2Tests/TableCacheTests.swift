// Readers of the table cache take no lock. Here they race with constant eviction, and every word and every answer is
// compared: a torn read must never get out.

import DiskTypes
import Dispatch
import Synchronization
import TestKit
import Testing

@testable import QCOW2

@Suite struct L2SliceCacheTests {
    /// More when hunting: QBLK_TEST_ROUNDS=100 and a release build.
    static let rounds = 4000 * testRounds

    /// Word i of a table.
    static func word(_ table: Int, _ i: Int) -> UInt64 { UInt64(table) << 32 | UInt64(i) }

    @Test func aSliceInUseMostlyStays() throws {
        let cache = try #require(L2SliceCache(tables: 400, wordsPerSlice: 4, byteLimit: 8 * 32))
        var misses = 0
        for table in 1..<400 {
            if cache.view(0) == nil {
                misses += 1
                cache.insert(0) { Self.word(0, $0) }
            }
            cache.insert(table) { Self.word(table, $0) }
        }
        #expect(misses <= 2)
    }

    @Test func viewDoesNotHoldOnceItsSliceIsGone() throws {
        let cache = try #require(L2SliceCache(tables: 40, wordsPerSlice: 4, byteLimit: 0, least: 8))
        #expect(cache.slots == 8 && cache.view(5) == nil)
        cache.insert(5) { Self.word(5, $0) }
        let view = try #require(cache.view(5))
        for table in 6..<40 { cache.insert(table) { Self.word(table, $0) } }
        #expect(!cache.holds(view) && cache.view(5) == nil)
        cache.insert(5) { Self.word(5, $0) }
        #expect(!cache.holds(view) && cache.view(5) != nil)
    }

    /// Its table may have changed, been written and left memory in the meantime.
    @Test func aSliceReadBeforeAnotherCameAndWentIsNotTaken() throws {
        let cache = try #require(L2SliceCache(tables: 40, wordsPerSlice: 4, byteLimit: 0, least: 8))
        let old = cache.generation(5)
        cache.insert(5) { Self.word(5, $0) }
        for table in 6..<40 { cache.insert(table) { Self.word(table, $0) } }
        cache.insert(5, generation: old) { _ in 99 }
        #expect(cache.view(5) == nil)
        cache.outdate(7)
    }

    @Test func aPinnedSliceStaysAndHalfOfAllCanBe() throws {
        let cache = try #require(L2SliceCache(tables: 60, wordsPerSlice: 4, byteLimit: 0, least: 8))
        for table in 0..<8 { cache.insert(table) { Self.word(table, $0) } }
        for table in 0..<4 { #expect(cache.pin(table) == true) }
        #expect(cache.pin(4) == nil && cache.pin(0) == true && cache.pin(50) == false)
        for table in 8..<60 { cache.insert(table) { Self.word(table, $0) } }
        for table in 0..<4 { #expect(cache.view(table)?[1] == Self.word(table, 1)) }
        cache.unpin(1)
        #expect(cache.pin(59) == true)
    }

    @Test func aPairIsSeenWholeWhileItChanges() throws {
        let cache = try #require(L2SliceCache(tables: 8, wordsPerSlice: 64, byteLimit: 0, least: 8))
        cache.insert(3) { _ in 0 }
        _ = cache.pin(3)
        let done = Atomic<Bool>(false)
        let torn = Atomic<Int>(0)
        DispatchQueue.concurrentPerform(iterations: 2) { thread in
            if thread == 0 {
                for i in 1...200_000 { cache.setPair(3, 6, UInt64(i), UInt64(i)) }
                return done.store(true, ordering: .releasing)
            }
            while !done.load(ordering: .acquiring) {
                guard let view = cache.view(3) else { continue }
                let (first, second) = (view[6], view[7])
                if cache.holds(view), first != second { torn.add(1, ordering: .relaxed) }
            }
        }
        #expect(torn.load(ordering: .relaxed) == 0)
    }

    @Test func secondInsertOfASliceChangesNothing() throws {
        let cache = try #require(L2SliceCache(tables: 2, wordsPerSlice: 2, byteLimit: 0))
        cache.insert(1) { _ in 7 }
        cache.insert(1) { _ in 8 }
        #expect(cache.view(1)?[0] == 7)
    }

    @Test(arguments: [2, 3, 16]) func raceWithEviction(_ slots: Int) throws {
        let words = 256
        let cache = try #require(L2SliceCache(tables: 24, wordsPerSlice: words, byteLimit: UInt64(slots * words * 8)))
        let wrong = Atomic<Int>(0)
        let torn = Atomic<Int>(0)
        DispatchQueue.concurrentPerform(iterations: 4) { thread in
            var random = SeededRandom(UInt64(thread))
            for _ in 0..<Self.rounds {
                let table = Int(random.number(below: 24))
                guard let view = cache.view(table) else {
                    cache.insert(table) { Self.word(table, $0) }
                    continue
                }
                var bad = 0
                for i in 0..<words where view[i] != Self.word(table, i) { bad += 1 }
                if !cache.holds(view) {
                    torn.add(1, ordering: .relaxed)
                } else if bad > 0 {
                    wrong.add(1, ordering: .relaxed)
                }
            }
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
    }

    @Test(arguments: [(9, false), (12, false), (14, true), (16, false), (16, true)] as [(UInt64, Bool)])
    func mapAnswersTheModelFromFourThreads(_ bits: UInt64, _ extended: Bool) throws {
        var random = SeededRandom(bits)
        var model = DiskModel.random(clusterBits: bits, extended: extended, external: false, &random)
        let source = model.write(random: &random)
        let checker = try MapChecker(model, source, cacheLimit: 0)
        let first = Mutex<String?>(nil)
        DispatchQueue.concurrentPerform(iterations: 4) { thread in
            var random = SeededRandom(UInt64(100 + thread))
            for _ in 0..<Self.rounds / 4 {
                let (guest, length) = MapModelTests.question(checker.model, &random)
                let fault = checker.fault(guest, length, patience: 1_000_000).0
                if let fault { first.withLock { $0 = $0 ?? "\(guest)+\(length): \(fault)" } }
            }
        }
        #expect(first.withLock { $0 } == nil)
    }
}

extension L2SliceCache {
    /// Asked for just now.
    func insert(_ table: Int, _ fill: (Int) -> UInt64) { insert(table, generation: generation(table), fill) }
}
