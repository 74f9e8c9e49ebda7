// Kill -9 at any moment must lose no request and repeat none that the driver saw answered. A crash is a copy of what
// other processes keep (the ring and the record) between any two steps.
import TestKit
import Testing
@testable import Virtqueue
import VirtqueueMock

struct InflightTests {
    /// A harness whose queue keeps a record, and what is needed to crash it and start it again.
    final class Recorded {
        let harness: QueueHarness
        let kind: Kind
        let record: InflightMemory

        init(_ kind: Kind, size: Int = 8) throws {
            self.kind = kind
            harness = try QueueHarness(kind, size: size, start: false)
            let bytes = InflightMemory.bytes(size: size, isPacked: kind.isPacked)
            let base = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
            base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
            record = InflightMemory(base: base, bytes: bytes)
            try harness.queue.start(harness.places(), base: kind.isPacked ? Virtqueue.packedBase : 0, inflight: record)
        }
        deinit { record.base.deallocate() }

        /// The process dies: all that it kept for itself is gone.
        func crash() throws {
            let size = harness.queue.size
            harness.queue = try Virtqueue(size: size, features: kind.features, memory: harness.guest.snapshot)
            try harness.queue.start(harness.places(), base: kind.isPacked ? Virtqueue.packedBase : 0, inflight: record)
        }
        var split: InflightSplit? { harness.queue.inflightSplit }
        var packed: InflightPacked? { harness.queue.inflightPacked }
        func publish() throws -> UInt16 { try #require(harness.driver.publish(try harness.request().buffers)) }
        func pop() throws -> UnsafeMutablePointer<DescriptorChain> { try #require(harness.pop()) }

        /// Everything that comes out of the queue, by the driver's id, answered.
        func finish() -> [UInt16] {
            var ids: [UInt16] = []
            while let chain = harness.pop() {
                #expect(chain.pointee.fault == .none)
                ids.append(chain.pointee.id)
                harness.push(chain, written: 1)
            }
            _ = harness.publish()
            return ids
        }
    }

    @Test(arguments: Kind.both) func requestsTakenAndNotPushedComeAgainInOrder(_ kind: Kind) throws {
        let it = try Recorded(kind)
        let first = try it.publish()
        let second = try it.publish()
        _ = try it.pop()
        _ = try it.pop()
        try it.crash()
        #expect(it.harness.replaysLeft == 2)
        let third = kind.isPacked ? nil : it.harness.driver.publish([MockBuffer(QueueHarness.low, 8, isWritable: true)])
        #expect(it.finish() == [first, second] + (third.map { [$0] } ?? []))
        #expect(it.harness.driver.collect().map(\.id) == [first, second] + (third.map { [$0] } ?? []))
    }

    @Test(arguments: Kind.both) func requestsNotTakenAreTakenOnce(_ kind: Kind) throws {
        let it = try Recorded(kind)
        let first = try it.publish()
        let second = try it.publish()
        _ = try it.pop()
        try it.crash()
        #expect(it.finish() == [first, second])
        try it.crash()
        #expect(it.finish() == [])
    }

    @Test(arguments: Kind.both) func requestsPushedButNotPublishedComeAgain(_ kind: Kind) throws {
        let it = try Recorded(kind)
        let first = try it.publish()
        it.harness.push(try it.pop(), written: 1)
        try it.crash()
        #expect(it.harness.driver.collect().isEmpty)
        #expect(it.finish() == [first])
    }

    @Test(arguments: Kind.both) func requestsPublishedDoNotComeAgain(_ kind: Kind) throws {
        let it = try Recorded(kind)
        let first = try it.publish()
        let second = try it.publish()
        let one = try it.pop()
        _ = try it.pop()
        it.harness.push(one, written: 1)
        _ = it.harness.publish()
        try it.crash()
        #expect(it.finish() == [second])
        #expect(it.harness.driver.collect().map(\.id) == [first, second])
    }

    @Test func theSplitRecordSurvivesACrashBetweenAnyTwoStepsOfAPublication() throws {
        // Two of three requests are published; `step` of the stores happen.
        for step in 0...6 {
            let it = try Recorded(.split, size: 16)
            let ids = [try it.publish(), try it.publish(), try it.publish()]
            let chains = [try it.pop(), try it.pop(), try it.pop()]
            it.harness.push(chains[2], written: 1)
            it.harness.push(chains[0], written: 1)
            let record = try #require(it.split)
            let steps: [() -> Void] = [
                { record.retire(Int(ids[2])) }, { record.retire(Int(ids[0])) },
                { release16(it.harness.queue.device + RingLayout.usedIndexOffset, 2) },
                { record.clear(Int(ids[2])) }, { record.clear(Int(ids[0])) }, { record.commit(usedIndex: 2) },
            ]
            for one in steps.prefix(step) { one() }
            try it.crash()
            let isOut = step >= 3
            #expect(it.finish() == (isOut ? [ids[1]] : ids), "step \(step)")
            #expect(it.harness.driver.collect().map(\.id).sorted() == ids.sorted(), "step \(step)")
        }
    }

    @Test func thePackedRecordSurvivesACrashBetweenAnyTwoStepsOfAPublication() throws {
        for step in 0...7 {
            let it = try Recorded(.packed, size: 11)
            let ids = [try it.publish(), try it.publish(), try it.publish()]
            let chains = [try it.pop(), try it.pop(), try it.pop()]
            let entries = chains.map { Int($0.pointee.record) }
            it.harness.push(chains[2], written: 1)
            it.harness.push(chains[0], written: 1)
            let record = try #require(it.packed)
            let word = it.harness.queue.pendingWord
            let ring = it.harness.queue.descriptors
            let steps: [() -> Void] = [
                { record.retire(entries[2]) }, { record.retire(entries[0]) },
                { record.announce(usedIndex: 6, wrap: true) }, { release64(ring + 8, word) },
                { record.clear(entries[2]) }, { record.clear(entries[0]) }, { record.commit() },
            ]
            for one in steps.prefix(step) { one() }
            try it.crash()
            let isOut = step >= 4
            #expect(it.finish() == (isOut ? [ids[1]] : ids), "step \(step)")
            #expect(it.harness.driver.collect().map(\.id).sorted() == ids.sorted(), "step \(step)")
            #expect(it.harness.damage == .none)
        }
    }

    @Test func thePackedRecordSurvivesACrashInTheMiddleOfAChain() throws {
        for noted in 1...3 {
            let it = try Recorded(.packed)
            let id = try it.publish()
            var record = try #require(it.packed)
            for i in 0..<noted {
                _ = record.note(Descriptor(address: 1, word: 1), isHead: i == 0)
            }
            try it.crash()
            #expect(it.harness.replaysLeft == 0, "a chain half taken was not taken")
            #expect(it.finish() == [id])
        }
    }

    @Test(arguments: Kind.both) func noRequestIsLostOrRepeatedOverManyCrashes(_ kind: Kind) throws {
        let it = try Recorded(kind, size: kind.isPacked ? 13 : 8)
        var random = SeededRandom(11)
        var waiting: Set<UInt16> = []
        var held: [UnsafeMutablePointer<DescriptorChain>] = []
        let data = try it.harness.buffer(64)
        for _ in 0..<20_000 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0...3:
                let count = Int.random(in: 1...3, using: &random)
                let buffers = (0..<count).map { _ in MockBuffer(data, 8, isWritable: true) }
                if let id = it.harness.driver.publish(buffers, indirect: Bool.random(using: &random)) {
                    #expect(waiting.insert(id).inserted)
                }
            case 4...5:
                if let chain = it.harness.pop() {
                    #expect(chain.pointee.fault == .none)
                    held.append(chain)
                }
            case 6...7:
                if !held.isEmpty {
                    it.harness.push(held.remove(at: Int.random(in: 0..<held.count, using: &random)), written: 1)
                }
            case 8:
                _ = it.harness.publish()
                for used in it.harness.driver.collect() { #expect(waiting.remove(used.id) != nil, "answered twice") }
            default:
                if Int.random(in: 0..<10, using: &random) == 0 {
                    held = []
                    try it.crash()
                }
            }
        }
        for chain in held { it.harness.push(chain, written: 1) }
        _ = it.harness.publish()
        for used in it.harness.driver.collect() { #expect(waiting.remove(used.id) != nil) }
        _ = it.finish()
        for used in it.harness.driver.collect() { #expect(waiting.remove(used.id) != nil) }
        #expect(waiting.isEmpty, "lost")
        #expect(it.harness.damage == .none)
    }

    @Test(arguments: Kind.both) func aRecordFullOfRubbishIsRefusedOrHarmless(_ kind: Kind) throws {
        var random = SeededRandom(5)
        for _ in 0..<3000 {
            let it = try Recorded(kind)
            let id = try it.publish()
            _ = try it.pop()
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                // Not the version: a new record is no rubbish.
                let at = Int.random(in: 10..<it.record.bytes, using: &random)
                it.record.base.storeBytes(
                    of: UInt8.random(in: 0...255, using: &random), toByteOffset: at, as: UInt8.self)
            }
            // Both while it runs and when it starts again.
            it.harness.driver.publish([MockBuffer(QueueHarness.low, 8, isWritable: true)])
            _ = it.harness.drain()
            do { try it.crash() } catch { continue }
            _ = it.harness.drain()
            _ = id
        }
    }

    @Test(arguments: Kind.both) func aRecordOfAnotherSizeIsRefused(_ kind: Kind) throws {
        let it = try Recorded(kind)
        it.record.base.storeBytes(of: 4, toByteOffset: 10, as: UInt16.self)
        #expect(throws: VirtqueueError.badInflightRegion("made for another queue size")) { try it.crash() }
        #expect(throws: VirtqueueError.self) {
            try it.harness.queue.start(
                it.harness.places(), base: kind.isPacked ? Virtqueue.packedBase : 0,
                inflight: InflightMemory(base: it.record.base, bytes: it.record.bytes - 1))
        }
    }
}
