// Why this file exists: what a well-behaved driver publishes arrives as it was meant, whatever its shape.
import Glibc
import Testing
import Virtqueue
import VirtqueueMock

struct ChainTests {
    @Test(arguments: Kind.allCases, [false, true])
    func aRequestArrivesBufferForBuffer(_ kind: Kind, indirect: Bool) throws {
        let rig = try Rig(kind)
        let request = try rig.request(data: 4096)
        let id = try #require(rig.driver.publish(request.buffers, indirect: indirect))
        let chain = try #require(rig.pop())
        #expect(contents(chain.pointee, rig.memory) == request.buffers)
        #expect(chain.pointee.readableBytes == 16)
        #expect(chain.pointee.writableBytes == 4097)
        #expect(rig.inFlight == 1)
        rig.push(chain, written: 4097)
        #expect(rig.driver.collect().isEmpty, "not before it is published")
        #expect(rig.publish())
        #expect(rig.driver.collect() == [MockUsed(id: id, written: 4097)])
        #expect(rig.inFlight == 0)
    }

    @Test(arguments: Kind.both, [515, 1026])
    func chainsOfManyDescriptorsGoThroughIndirectTables(_ kind: Kind, count: Int) throws {
        let rig = try Rig(kind, size: 4, tableEntries: 1026)
        let data = try rig.buffer(512 * count)
        let buffers = (0..<count).map { MockBuffer(data + UInt64($0 * 512), 512, isWritable: $0 > 0) }
        for _ in 0..<6 {
            rig.driver.publish(buffers, indirect: true)
            let chain = try #require(rig.pop())
            #expect(chain.pointee.fault == .none)
            #expect(contents(chain.pointee, rig.memory) == buffers)
            rig.push(chain, written: 0)
            _ = rig.publish()
            #expect(rig.driver.collect().count == 1)
        }
    }

    @Test(arguments: Kind.both) func buffersThatCrossRegionsAreSplit(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let border = Rig.middle
        rig.driver.publish([MockBuffer(border - 100, 300, isWritable: true)])
        let chain = try #require(rig.pop())
        #expect(
            contents(chain.pointee, rig.memory) == [
                MockBuffer(border - 100, 100, isWritable: true), MockBuffer(border, 200, isWritable: true),
            ])
        #expect(chain.pointee.writableBytes == 300)
    }

    @Test(arguments: Kind.both, [UInt64(0), 8, 4])
    func indirectTablesThatCrossRegionsOrAreMisalignedAreRead(_ kind: Kind, shift: UInt64) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        let table = Rig.middle - 16 - shift
        let list = request.buffers.enumerated().map { i, buffer in
            (
                address: buffer.address, length: buffer.length,
                flags: (buffer.isWritable ? RingLayout.flagWrite : 0)
                    | (!kind.isPacked && i < 2 ? RingLayout.flagNext : 0),
                next: UInt16(i + 1)
            )
        }
        rig.driver.writeTable(at: table, list)
        rig.driver.publishRaw([(table, 48, RingLayout.flagIndirect, 0)])
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == .none)
        #expect(contents(chain.pointee, rig.memory) == request.buffers)
    }

    @Test(arguments: Kind.both) func directDescriptorsMayComeBeforeAnIndirectTable(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        let table = try rig.buffer(32)
        let next = kind.isPacked ? 0 : RingLayout.flagNext
        rig.driver.writeTable(
            at: table,
            [
                (request.data, 512, RingLayout.flagWrite | next, 1),
                (request.status, 1, RingLayout.flagWrite, 0),
            ])
        rig.driver.publishRaw([
            (request.buffers[0].address, 16, RingLayout.flagNext, kind.isPacked ? 7 : 1),
            (table, 32, RingLayout.flagIndirect, 7),
        ])
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == .none)
        #expect(contents(chain.pointee, rig.memory) == request.buffers)
    }

    @Test(arguments: Kind.both) func emptyBuffersAreSkipped(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        // Its address need not exist: nobody goes there.
        rig.driver.publish([request.buffers[0], MockBuffer(UInt64.max, 0, isWritable: true)] + request.buffers[1...])
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == .none)
        #expect(contents(chain.pointee, rig.memory) == request.buffers)
    }

    @Test(arguments: Kind.allCases) func aBatchIsPublishedAtOnceAndSignalledOnce(_ kind: Kind) throws {
        let rig = try Rig(kind)
        _ = rig.driver.enableSignals()
        let ids = try (0..<5).map { _ in rig.driver.publish(try rig.request().buffers) }
        var chains: [UnsafeMutablePointer<DescriptorChain>] = []
        while let chain = rig.pop() { chains.append(chain) }
        #expect(chains.count == 5)
        for chain in chains {
            rig.push(chain, written: 1)
            #expect(!rig.driver.hasUsed)
        }
        #expect(rig.publish())
        #expect(!rig.publish(), "nothing is left to publish")
        #expect(rig.driver.collect().map(\.id) == ids.compactMap { $0 })
    }

    @Test(arguments: Kind.allCases) func buffersComeBackInAnyOrderOverManyLaps(_ kind: Kind) throws {
        // 7 entries and chains of 1..3: packed wrap counters turn at every odd place.
        let size = kind.isPacked ? 7 : 8
        let rig = try Rig(kind, size: size)
        let data = try rig.buffer(4096)
        var random = Random(7)
        var outstanding: Set<UInt16> = []
        var held: [UnsafeMutablePointer<DescriptorChain>] = []
        var served = 0
        while served < 5000 {
            let count = Int.random(in: 1...3, using: &random)
            let buffers = (0..<count).map { MockBuffer(data + UInt64($0 * 8), 8, isWritable: $0 == count - 1) }
            if let id = rig.driver.publish(buffers, indirect: Bool.random(using: &random)) {
                #expect(outstanding.insert(id).inserted)
            }
            if let chain = rig.pop() { held.append(chain) }
            while held.count > 2 || (!held.isEmpty && Bool.random(using: &random)) {
                rig.push(held.remove(at: Int.random(in: 0..<held.count, using: &random)), written: 8)
            }
            if Bool.random(using: &random) { _ = rig.publish() }
            for used in rig.driver.collect() {
                #expect(outstanding.remove(used.id) != nil)
                #expect(used.written == 8)
                served += 1
            }
        }
        #expect(rig.damage == .none)
    }

    @Test(arguments: Kind.both) func aQueueGoesOnElsewhereFromWhereItStopped(_ kind: Kind) throws {
        let rig = try Rig(kind)
        for _ in 0..<21 {
            rig.driver.publish(try rig.request().buffers)
            #expect(rig.drain() == [.none])
            #expect(rig.driver.collect().count == 1)
        }
        rig.driver.publish(try rig.request().buffers)
        let base = rig.queue.stop()
        #expect(rig.pop() == nil)
        #expect(!rig.publish())
        rig.queue = try Virtqueue(size: 16, features: kind.features, memory: rig.guest.snapshot)
        try rig.queue.start(rig.places(), base: base)
        #expect(rig.drain() == [.none])
        #expect(rig.driver.collect().count == 1)
    }

    @Test func basesOutsideTheRingAreRefused() throws {
        let split = try Rig(.split, start: false)
        let packed = try Rig(.packed, start: false)
        #expect(throws: VirtqueueError.badBase(0x10000)) { try split.queue.start(split.places(), base: 0x10000) }
        #expect(throws: VirtqueueError.badBase(16)) { try packed.queue.start(packed.places(), base: 16) }
    }

    @Test(arguments: Kind.both) func whatIsPushedAfterStopIsNotWritten(_ kind: Kind) throws {
        let rig = try Rig(kind)
        rig.driver.publish(try rig.request().buffers)
        let chain = try #require(rig.pop())
        _ = rig.queue.stop()
        let before = rig.memory.read(4096, at: rig.driver.descriptorArea)
        rig.push(chain, written: 3)
        #expect(!rig.publish())
        #expect(rig.memory.read(4096, at: rig.driver.descriptorArea) == before)
        #expect(rig.inFlight == 0)
    }
}
