// What a well-behaved driver publishes arrives as it was meant, whatever its shape.
import Glibc
import TestKit
import Testing
import Virtqueue
import VirtqueueMock

struct ChainTests {
    @Test(arguments: Kind.allCases, [false, true])
    func aRequestArrivesBufferForBuffer(_ kind: Kind, indirect: Bool) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request(data: 4096)
        let id = try #require(harness.driver.publish(request.buffers, indirect: indirect))
        let chain = try #require(harness.pop())
        #expect(contents(chain.pointee, harness.memory) == request.buffers)
        #expect(chain.pointee.readableBytes == 16)
        #expect(chain.pointee.writableBytes == 4097)
        #expect(harness.inFlight == 1)
        harness.push(chain, written: 4097)
        #expect(harness.driver.collect().isEmpty, "not before it is published")
        #expect(harness.publish())
        #expect(harness.driver.collect() == [MockUsed(id: id, written: 4097)])
        #expect(harness.inFlight == 0)
    }

    @Test(arguments: Kind.both, [515, 1026])
    func chainsOfManyDescriptorsGoThroughIndirectTables(_ kind: Kind, count: Int) throws {
        let harness = try QueueHarness(kind, size: 4, tableEntries: 1026)
        let data = try harness.buffer(512 * count)
        let buffers = (0..<count).map { MockBuffer(data + UInt64($0 * 512), 512, isWritable: $0 > 0) }
        for _ in 0..<6 {
            harness.driver.publish(buffers, indirect: true)
            let chain = try #require(harness.pop())
            #expect(chain.pointee.fault == .none)
            #expect(contents(chain.pointee, harness.memory) == buffers)
            harness.push(chain, written: 0)
            _ = harness.publish()
            #expect(harness.driver.collect().count == 1)
        }
    }

    @Test(arguments: Kind.both) func buffersThatCrossRegionsAreSplit(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let border = QueueHarness.middle
        harness.driver.publish([MockBuffer(border - 100, 300, isWritable: true)])
        let chain = try #require(harness.pop())
        #expect(
            contents(chain.pointee, harness.memory) == [
                MockBuffer(border - 100, 100, isWritable: true), MockBuffer(border, 200, isWritable: true),
            ])
        #expect(chain.pointee.writableBytes == 300)
    }

    @Test(arguments: Kind.both, [UInt64(0), 8, 4])
    func indirectTablesThatCrossRegionsOrAreMisalignedAreRead(_ kind: Kind, shift: UInt64) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        let table = QueueHarness.middle - 16 - shift
        let list = request.buffers.enumerated().map { i, buffer in
            (
                address: buffer.address, length: buffer.length,
                flags: (buffer.isWritable ? RingLayout.flagWrite : 0)
                    | (!kind.isPacked && i < 2 ? RingLayout.flagNext : 0),
                next: UInt16(i + 1)
            )
        }
        harness.driver.writeTable(at: table, list)
        harness.driver.publishRaw([(table, 48, RingLayout.flagIndirect, 0)])
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == .none)
        #expect(contents(chain.pointee, harness.memory) == request.buffers)
    }

    @Test(arguments: Kind.both) func directDescriptorsMayComeBeforeAnIndirectTable(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        let table = try harness.buffer(32)
        let next = kind.isPacked ? 0 : RingLayout.flagNext
        harness.driver.writeTable(
            at: table,
            [
                (request.data, 512, RingLayout.flagWrite | next, 1),
                (request.status, 1, RingLayout.flagWrite, 0),
            ])
        harness.driver.publishRaw([
            (request.buffers[0].address, 16, RingLayout.flagNext, kind.isPacked ? 7 : 1),
            (table, 32, RingLayout.flagIndirect, 7),
        ])
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == .none)
        #expect(contents(chain.pointee, harness.memory) == request.buffers)
    }

    @Test(arguments: Kind.both) func emptyBuffersAreSkipped(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        // Its address need not exist: it is not read.
        harness.driver.publish(
            [request.buffers[0], MockBuffer(UInt64.max, 0, isWritable: true)] + request.buffers[1...])
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == .none)
        #expect(contents(chain.pointee, harness.memory) == request.buffers)
    }

    @Test(arguments: Kind.allCases) func aBatchIsPublishedAtOnceAndSignalledOnce(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        _ = harness.driver.enableSignals()
        let ids = try (0..<5).map { _ in harness.driver.publish(try harness.request().buffers) }
        var chains: [UnsafeMutablePointer<DescriptorChain>] = []
        while let chain = harness.pop() { chains.append(chain) }
        #expect(chains.count == 5)
        for chain in chains {
            harness.push(chain, written: 1)
            #expect(!harness.driver.hasUsed)
        }
        #expect(harness.publish())
        #expect(!harness.publish(), "nothing is left to publish")
        #expect(harness.driver.collect().map(\.id) == ids.compactMap { $0 })
    }

    @Test(arguments: Kind.allCases) func buffersComeBackInAnyOrderOverManyLaps(_ kind: Kind) throws {
        // 7 entries and chains of 1..3: packed wrap counters turn at every odd place.
        let size = kind.isPacked ? 7 : 8
        let harness = try QueueHarness(kind, size: size)
        let data = try harness.buffer(4096)
        var random = SeededRandom(7)
        var outstanding: Set<UInt16> = []
        var held: [UnsafeMutablePointer<DescriptorChain>] = []
        var served = 0
        while served < 5000 {
            let count = Int.random(in: 1...3, using: &random)
            let buffers = (0..<count).map { MockBuffer(data + UInt64($0 * 8), 8, isWritable: $0 == count - 1) }
            if let id = harness.driver.publish(buffers, indirect: Bool.random(using: &random)) {
                #expect(outstanding.insert(id).inserted)
            }
            if let chain = harness.pop() { held.append(chain) }
            while held.count > 2 || (!held.isEmpty && Bool.random(using: &random)) {
                harness.push(held.remove(at: Int.random(in: 0..<held.count, using: &random)), written: 8)
            }
            if Bool.random(using: &random) { _ = harness.publish() }
            for used in harness.driver.collect() {
                #expect(outstanding.remove(used.id) != nil)
                #expect(used.written == 8)
                served += 1
            }
        }
        #expect(harness.damage == .none)
    }

    @Test(arguments: Kind.both) func aQueueGoesOnElsewhereFromWhereItStopped(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        for _ in 0..<21 {
            harness.driver.publish(try harness.request().buffers)
            #expect(harness.drain() == [.none])
            #expect(harness.driver.collect().count == 1)
        }
        harness.driver.publish(try harness.request().buffers)
        let base = harness.queue.stop()
        #expect(harness.pop() == nil)
        #expect(!harness.publish())
        harness.queue = try Virtqueue(size: 16, features: kind.features, memory: harness.guest.snapshot)
        try harness.queue.start(harness.places(), base: base)
        #expect(harness.drain() == [.none])
        #expect(harness.driver.collect().count == 1)
    }

    @Test func basesOutsideTheRingAreRefused() throws {
        let split = try QueueHarness(.split, start: false)
        let packed = try QueueHarness(.packed, start: false)
        #expect(throws: VirtqueueError.badBase(0x10000)) { try split.queue.start(split.places(), base: 0x10000) }
        #expect(throws: VirtqueueError.badBase(16)) { try packed.queue.start(packed.places(), base: 16) }
    }

    @Test(arguments: Kind.both) func whatIsPushedAfterStopIsNotWritten(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        harness.driver.publish(try harness.request().buffers)
        let chain = try #require(harness.pop())
        _ = harness.queue.stop()
        let before = harness.memory.read(4096, at: harness.driver.descriptorArea)
        harness.push(chain, written: 3)
        #expect(!harness.publish())
        #expect(harness.memory.read(4096, at: harness.driver.descriptorArea) == before)
        #expect(harness.inFlight == 0)
    }
}
