// Why this file exists: every harm a driver is known to try (formats/virtio-blk/README.md lists them). One request may
// fail, or this one queue; never the process, and never memory outside the guest's.
import Testing
import Virtqueue
import VirtqueueMock

struct HostileTests {
    private static let next = RingLayout.flagNext
    private static let write = RingLayout.flagWrite
    private static let indirect = RingLayout.flagIndirect

    /// Publishes one raw chain, pops it, and expects `fault`, and the queue to be as good as new afterwards.
    private func expect(
        _ fault: ChainFault, status: Bool, _ rig: Rig,
        _ list: [(address: UInt64, length: UInt32, flags: UInt16, next: UInt16)]
    ) throws {
        rig.driver.publishRaw(list)
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == fault)
        #expect((chain.pointee.lastWritable != nil) == status)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        guard case .answered(let written) = VirtioBlk.decode(chain, disk) else {
            Issue.record("a damaged chain was taken for a request")
            return
        }
        if !status { #expect(written == 0) }
        rig.push(chain, written: written)
        _ = rig.publish()
        #expect(rig.damage == .none)
        #expect(rig.driver.hasUsed)
        #expect(rig.refused == 1)
    }

    // MARK: the ring

    @Test func aHeadOutsideTheRingBreaksThisQueue() throws {
        let rig = try Rig(.split)
        rig.driver.publishHead(16)
        #expect(rig.pop() == nil)
        #expect(rig.damage == .headOutOfRange)
        rig.driver.publishHead(0)
        #expect(rig.pop() == nil, "a broken queue takes no more")
        #expect(!rig.hasAvailable)
    }

    @Test func anAvailIndexFurtherAheadThanTheRingBreaksThisQueue() throws {
        let rig = try Rig(.split)
        rig.driver.claimAvailIndex(17)
        #expect(rig.pop() == nil)
        #expect(rig.damage == .availOverrun)
    }

    @Test func anAvailIndexAFullRingAheadIsFine() throws {
        let rig = try Rig(.split)
        for i in 0..<16 {
            rig.driver.publishRaw([(Rig.low, 16, Self.write, 0)], first: i)
        }
        #expect(rig.drain().count == 16)
        #expect(rig.damage == .none)
    }

    @Test func requestsInFlightOfABrokenQueueStillComplete() throws {
        let rig = try Rig(.split)
        rig.driver.publish(try rig.request().buffers)
        let chain = try #require(rig.pop())
        rig.driver.publishHead(999)
        #expect(rig.pop() == nil)
        rig.push(chain, written: 1)
        #expect(rig.publish())
        #expect(rig.driver.collect().count == 1)
    }

    @Test(arguments: Kind.both) func aBrokenQueueStartsAnew(_ kind: Kind) throws {
        let rig = try Rig(kind)
        if kind.isPacked {
            rig.driver.publishRaw((0..<16).map { _ in (Rig.low, 16, Self.next, 0) })
        } else {
            rig.driver.publishHead(16)
        }
        #expect(rig.pop() == nil)
        #expect(rig.damage != .none)
        let driver = try #require(MockDriver(memory: rig.memory, size: 16, features: kind.features))
        let places = try RingAddresses(driver.addresses, size: 16, isPacked: kind.isPacked, in: rig.guest.snapshot)
        try rig.queue.start(places, base: kind.isPacked ? Virtqueue.packedBase : 0)
        driver.publish(try rig.request().buffers)
        #expect(rig.drain() == [.none])
    }

    @Test(arguments: Kind.both) func aBufferPublishedTwiceIsAnsweredTwiceAndTakenOnce(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        let id = try #require(rig.driver.publish(request.buffers))
        let chain = try #require(rig.pop())
        let before = contents(chain.pointee, rig.memory)
        if kind.isPacked {
            rig.driver.publishEntry(address: Rig.far, length: 8, flags: Self.write, id: id)
        } else {
            rig.driver.publishHead(id)
        }
        #expect(rig.pop() == nil)
        #expect(rig.refused == 1)
        #expect(rig.inFlight == 1)
        #expect(contents(chain.pointee, rig.memory) == before)
        _ = rig.publish()
        #expect(rig.driver.nextUsedBuffer() == MockUsed(id: id, written: 0))
        rig.push(chain, written: 513)
        _ = rig.publish()
        // The driver believes that the first answer was for three entries; the second is behind its one.
        let second = kind.isPacked ? rig.driver.usedEntry(1) : rig.driver.nextUsedBuffer()
        #expect(second == MockUsed(id: id, written: 513))
        #expect(rig.damage == .none)
    }

    @Test func publishingOneHeadForEverBreaksTheQueueInsteadOfHoldingTheWorker() throws {
        let rig = try Rig(.split)
        rig.driver.publish(try rig.request().buffers)
        _ = rig.pop()
        for _ in 0..<16 { rig.driver.publishHead(0) }
        #expect(rig.pop() == nil)
        #expect(rig.damage == .overcommitted)
    }

    @Test func morePackedEntriesThanTheRingHasBreakTheQueue() throws {
        let rig = try Rig(.packed)
        for i in 0..<16 { rig.driver.publishEntry(address: Rig.low, length: 16, flags: Self.write, id: UInt16(i)) }
        for _ in 0..<16 { #expect(rig.pop() != nil) }
        rig.driver.publishEntry(address: Rig.low, length: 16, flags: Self.write, id: 99)
        #expect(rig.pop() == nil)
        #expect(rig.damage == .overcommitted)
    }

    @Test func aPackedChainWithoutEndBreaksTheQueue() throws {
        let rig = try Rig(.packed)
        rig.driver.publishRaw((0..<16).map { _ in (Rig.low, 16, Self.next, 0) })
        #expect(rig.pop() == nil)
        #expect(rig.damage == .endlessChain)
        #expect(rig.inFlight == 0)
    }

    @Test func packedBufferIdsAreAnySixteenBits() throws {
        let rig = try Rig(.packed)
        rig.driver.publishEntry(address: Rig.low, length: 16, flags: Self.write, id: 65535)
        let chain = try #require(rig.pop())
        rig.push(chain, written: 0)
        _ = rig.publish()
        #expect(rig.driver.nextUsedBuffer() == MockUsed(id: 65535, written: 0))
    }

    // MARK: the structure of a chain

    @Test func aNextOutsideTheTableFailsTheRequest() throws {
        let rig = try Rig(.split)
        try expect(.nextOutOfRange, status: false, rig, [(Rig.low, 16, Self.next | Self.write, 16)])
    }

    @Test func aLoopFailsTheRequest() throws {
        let rig = try Rig(.split)
        try expect(
            .endless, status: false, rig, [(Rig.low, 16, Self.next, 1), (Rig.low, 1, Self.next | Self.write, 0)])
    }

    @Test func aLoopInAnIndirectTableFailsTheRequest() throws {
        let rig = try Rig(.split)
        let table = try rig.buffer(32)
        rig.driver.writeTable(at: table, [(Rig.low, 16, Self.next, 1), (Rig.low, 1, Self.next | Self.write, 0)])
        try expect(.endless, status: false, rig, [(table, 32, Self.indirect, 0)])
    }

    @Test func aNextOutsideTheIndirectTableFailsTheRequest() throws {
        let rig = try Rig(.split)
        let table = try rig.buffer(32)
        rig.driver.writeTable(at: table, [(Rig.low, 16, Self.next, 2), (Rig.low, 1, Self.write, 0)])
        try expect(.nextOutOfRange, status: false, rig, [(table, 32, Self.indirect, 0)])
    }

    @Test func anIndirectTableInsideAnotherFailsTheRequest() throws {
        let rig = try Rig(.split)
        let table = try rig.buffer(16)
        rig.driver.writeTable(at: table, [(table, 16, Self.indirect, 0)])
        try expect(.indirectInIndirect, status: false, rig, [(table, 16, Self.indirect, 0)])
    }

    @Test func aPackedIndirectTableKnowsNoFlagButWrite() throws {
        let rig = try Rig(.packed)
        let table = try rig.buffer(16)
        rig.driver.writeTable(at: table, [(Rig.low, 16, Self.indirect | Self.next | Self.write, 0)])
        rig.driver.publishRaw([(table, 16, Self.indirect, 0)])
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == .none)
        #expect(chain.pointee.writableBytes == 16)
    }

    @Test(arguments: Kind.both, [0, 8, 17, 65536 * 16] as [UInt32])
    func indirectTablesOfImpossibleLengthFailTheRequest(_ kind: Kind, length: UInt32) throws {
        let rig = try Rig(kind)
        try expect(.indirectLength, status: false, rig, [(Rig.low, length, Self.indirect, 0)])
    }

    @Test(arguments: Kind.both) func indirectTablesOutsideMemoryFailTheRequest(_ kind: Kind) throws {
        for address in [0, Rig.far + 0x10000 - 8, UInt64.max - 15, UInt64.max] {
            let rig = try Rig(kind)
            try expect(.indirectOutsideMemory, status: false, rig, [(address, 48, Self.indirect, 0)])
        }
    }

    @Test(arguments: Kind.both) func indirectWithoutTheFeatureFailsTheRequest(_ kind: Kind) throws {
        let rig = try Rig(kind)
        rig.queue = try Virtqueue(
            size: 16, features: kind.features.subtracting(.indirect), memory: rig.guest.snapshot)
        try rig.queue.start(rig.places(), base: kind.isPacked ? Virtqueue.packedBase : 0)
        try expect(.indirectNotNegotiated, status: false, rig, [(Rig.low, 16, Self.indirect, 0)])
    }

    @Test(arguments: Kind.both) func indirectAndNextInOneDescriptorFailsTheRequestInItsStatus(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        let table = try rig.buffer(16)
        rig.driver.writeTable(at: table, [(request.status, 1, Self.write, 0)])
        let flags = Self.indirect | Self.next
        try expect(
            .indirectWithNext, status: true, rig,
            kind.isPacked ? [(table, 16, flags, 0), (0, 0, 0, 0)] : [(table, 16, flags, 1)])
        #expect(rig.status(request.status) == 1)
    }

    // MARK: its buffers

    @Test(arguments: Kind.both, [UInt64(0), 0xFFFF, Rig.far + 0xFFFF, .max, .max - 511] as [UInt64])
    func dataOutsideMemoryFailsTheRequestInItsStatus(_ kind: Kind, address: UInt64) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        rig.driver.publish([
            request.buffers[0], MockBuffer(address, 512, isWritable: true), request.buffers[2],
        ])
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == .addressOutsideMemory)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        guard case .answered = VirtioBlk.decode(chain, disk) else {
            Issue.record("taken for a request")
            return
        }
        #expect(rig.status(request.status) == 1)
    }

    @Test(arguments: Kind.both) func aStatusOutsideMemoryGivesTheBareHeadBack(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let header = try rig.request().buffers[0].address
        let list = [
            (address: header, length: UInt32(16), flags: Self.next, next: UInt16(1)),
            (address: UInt64(0), length: UInt32(1), flags: Self.write, next: UInt16(0)),
        ]
        try expect(.addressOutsideMemory, status: false, rig, list)
    }

    @Test(arguments: Kind.both) func readableAfterWritableFailsTheRequestInItsStatus(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        let list = [
            (address: request.status, length: UInt32(1), flags: Self.next | Self.write, next: UInt16(1)),
            (address: request.buffers[0].address, length: UInt32(16), flags: UInt16(0), next: UInt16(0)),
        ]
        try expect(.readableAfterWritable, status: true, rig, list)
        #expect(rig.status(request.status) == 1)
    }

    @Test(arguments: Kind.both) func moreSegmentsThanReadvTakesFailTheRequestInItsStatus(_ kind: Kind) throws {
        let rig = try Rig(kind, size: 4, tableEntries: 1100)
        let request = try rig.request()
        let many = (0..<1027).map { _ in MockBuffer(request.data, 1, isWritable: true) }
        rig.driver.publish([request.buffers[0]] + many + [request.buffers[2]], indirect: true)
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == .tooManySegments)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        guard case .answered = VirtioBlk.decode(chain, disk) else {
            Issue.record("taken for a request")
            return
        }
        #expect(rig.status(request.status) == 1)
    }

    @Test(arguments: Kind.both) func tablesWithoutEndAreNotWalkedForEver(_ kind: Kind) throws {
        let rig = try Rig(kind, size: 4, tableEntries: 1)
        let count = 65535
        let table = try rig.buffer(count * 16)
        let flags = Self.write | (kind.isPacked ? 0 : Self.next)
        rig.driver.writeTable(at: table, (0..<count).map { (Rig.low, 0, flags, UInt16(($0 + 1) & 0xFFFF)) })
        try expect(.endless, status: false, rig, [(table, UInt32(count * 16), Self.indirect, 0)])
    }

    @Test(arguments: Kind.both) func buffersOfFourGigabytesAddUpWithoutOverflow(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let list = (0..<4).map {
            (address: Rig.low, length: UInt32.max, flags: Self.write | ($0 < 3 ? Self.next : 0), next: UInt16($0 + 1))
        }
        rig.driver.publishRaw(list)
        let chain = try #require(rig.pop())
        #expect(chain.pointee.fault == .addressOutsideMemory)
    }

    @Test(arguments: Kind.both) func aDescriptorIsReadOnce(_ kind: Kind) throws {
        let rig = try Rig(kind)
        let request = try rig.request()
        rig.driver.publish(request.buffers)
        let chain = try #require(rig.pop())
        for i in 0..<16 { rig.driver.writeDescriptor(i, address: 0, length: UInt32.max, flags: nil, next: 0xFFFF) }
        #expect(contents(chain.pointee, rig.memory) == request.buffers)
    }
}
