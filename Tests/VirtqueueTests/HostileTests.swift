// Every harm a driver is known to try (formats/virtio-blk/README.md lists them). One request may fail, or this one
// queue; never the process, and never memory outside the guest's.
import Testing
import Virtqueue
import VirtqueueMock

struct HostileTests {
    private static let next = RingLayout.flagNext
    private static let write = RingLayout.flagWrite
    private static let indirect = RingLayout.flagIndirect

    /// Publishes one raw chain, pops it, and expects `fault`, and the queue to be as good as new afterwards.
    private func expect(
        _ fault: ChainFault, status: Bool, _ harness: QueueHarness,
        _ list: [(address: UInt64, length: UInt32, flags: UInt16, next: UInt16)]
    ) throws {
        harness.driver.publishRaw(list)
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == fault)
        #expect((chain.pointee.lastWritable != nil) == status)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        guard case .answered(let written) = VirtioBlk.decode(chain, disk) else {
            Issue.record("a damaged chain was taken for a request")
            return
        }
        if !status { #expect(written == 0) }
        harness.push(chain, written: written)
        _ = harness.publish()
        #expect(harness.damage == .none)
        #expect(harness.driver.hasUsed)
        #expect(harness.refused == 1)
    }

    // MARK: the ring

    @Test func aHeadOutsideTheRingBreaksThisQueue() throws {
        let harness = try QueueHarness(.split)
        harness.driver.publishHead(16)
        #expect(harness.pop() == nil)
        #expect(harness.damage == .headOutOfRange)
        harness.driver.publishHead(0)
        #expect(harness.pop() == nil, "a broken queue takes no more")
        #expect(!harness.hasAvailable)
    }

    @Test func anAvailIndexFurtherAheadThanTheRingBreaksThisQueue() throws {
        let harness = try QueueHarness(.split)
        harness.driver.claimAvailIndex(17)
        #expect(harness.pop() == nil)
        #expect(harness.damage == .availOverrun)
    }

    @Test func anAvailIndexAFullRingAheadIsFine() throws {
        let harness = try QueueHarness(.split)
        for i in 0..<16 {
            harness.driver.publishRaw([(QueueHarness.low, 16, Self.write, 0)], first: i)
        }
        #expect(harness.drain().count == 16)
        #expect(harness.damage == .none)
    }

    @Test func requestsInFlightOfABrokenQueueStillComplete() throws {
        let harness = try QueueHarness(.split)
        harness.driver.publish(try harness.request().buffers)
        let chain = try #require(harness.pop())
        harness.driver.publishHead(999)
        #expect(harness.pop() == nil)
        harness.push(chain, written: 1)
        #expect(harness.publish())
        #expect(harness.driver.collect().count == 1)
    }

    @Test(arguments: Kind.both) func aBrokenQueueStartsAnew(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        if kind.isPacked {
            harness.driver.publishRaw((0..<16).map { _ in (QueueHarness.low, 16, Self.next, 0) })
        } else {
            harness.driver.publishHead(16)
        }
        #expect(harness.pop() == nil)
        #expect(harness.damage != .none)
        let driver = try #require(MockDriver(memory: harness.memory, size: 16, features: kind.features))
        let places = try RingAddresses(driver.addresses, size: 16, isPacked: kind.isPacked, in: harness.guest.snapshot)
        try harness.queue.start(places, base: kind.isPacked ? Virtqueue.packedBase : 0)
        driver.publish(try harness.request().buffers)
        #expect(harness.drain() == [.none])
    }

    @Test(arguments: Kind.both) func aBufferPublishedTwiceIsAnsweredTwiceAndTakenOnce(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        let id = try #require(harness.driver.publish(request.buffers))
        let chain = try #require(harness.pop())
        let before = contents(chain.pointee, harness.memory)
        if kind.isPacked {
            harness.driver.publishEntry(address: QueueHarness.far, length: 8, flags: Self.write, id: id)
        } else {
            harness.driver.publishHead(id)
        }
        #expect(harness.pop() == nil)
        #expect(harness.refused == 1)
        #expect(harness.inFlight == 1)
        #expect(contents(chain.pointee, harness.memory) == before)
        _ = harness.publish()
        #expect(harness.driver.nextUsedBuffer() == MockUsed(id: id, written: 0))
        harness.push(chain, written: 513)
        _ = harness.publish()
        // The driver believes that the first answer was for three entries; the second is behind its one.
        let second = kind.isPacked ? harness.driver.usedEntry(1) : harness.driver.nextUsedBuffer()
        #expect(second == MockUsed(id: id, written: 513))
        #expect(harness.damage == .none)
    }

    @Test func publishingOneHeadForEverBreaksTheQueueInsteadOfHoldingTheWorker() throws {
        let harness = try QueueHarness(.split)
        harness.driver.publish(try harness.request().buffers)
        _ = harness.pop()
        for _ in 0..<16 { harness.driver.publishHead(0) }
        #expect(harness.pop() == nil)
        #expect(harness.damage == .overcommitted)
    }

    @Test func morePackedEntriesThanTheRingHasBreakTheQueue() throws {
        let harness = try QueueHarness(.packed)
        for i in 0..<16 {
            harness.driver.publishEntry(address: QueueHarness.low, length: 16, flags: Self.write, id: UInt16(i))
        }
        for _ in 0..<16 { #expect(harness.pop() != nil) }
        harness.driver.publishEntry(address: QueueHarness.low, length: 16, flags: Self.write, id: 99)
        #expect(harness.pop() == nil)
        #expect(harness.damage == .overcommitted)
    }

    @Test func aPackedChainWithoutEndBreaksTheQueue() throws {
        let harness = try QueueHarness(.packed)
        harness.driver.publishRaw((0..<16).map { _ in (QueueHarness.low, 16, Self.next, 0) })
        #expect(harness.pop() == nil)
        #expect(harness.damage == .endlessChain)
        #expect(harness.inFlight == 0)
    }

    @Test func packedBufferIdsAreAnySixteenBits() throws {
        let harness = try QueueHarness(.packed)
        harness.driver.publishEntry(address: QueueHarness.low, length: 16, flags: Self.write, id: 65535)
        let chain = try #require(harness.pop())
        harness.push(chain, written: 0)
        _ = harness.publish()
        #expect(harness.driver.nextUsedBuffer() == MockUsed(id: 65535, written: 0))
    }

    // MARK: the structure of a chain

    @Test func aNextOutsideTheTableFailsTheRequest() throws {
        let harness = try QueueHarness(.split)
        try expect(.nextOutOfRange, status: false, harness, [(QueueHarness.low, 16, Self.next | Self.write, 16)])
    }

    @Test func aLoopFailsTheRequest() throws {
        let harness = try QueueHarness(.split)
        try expect(
            .endless, status: false, harness,
            [(QueueHarness.low, 16, Self.next, 1), (QueueHarness.low, 1, Self.next | Self.write, 0)])
    }

    @Test func aLoopInAnIndirectTableFailsTheRequest() throws {
        let harness = try QueueHarness(.split)
        let table = try harness.buffer(32)
        harness.driver.writeTable(
            at: table, [(QueueHarness.low, 16, Self.next, 1), (QueueHarness.low, 1, Self.next | Self.write, 0)])
        try expect(.endless, status: false, harness, [(table, 32, Self.indirect, 0)])
    }

    @Test func aNextOutsideTheIndirectTableFailsTheRequest() throws {
        let harness = try QueueHarness(.split)
        let table = try harness.buffer(32)
        harness.driver.writeTable(
            at: table, [(QueueHarness.low, 16, Self.next, 2), (QueueHarness.low, 1, Self.write, 0)])
        try expect(.nextOutOfRange, status: false, harness, [(table, 32, Self.indirect, 0)])
    }

    @Test func anIndirectTableInsideAnotherFailsTheRequest() throws {
        let harness = try QueueHarness(.split)
        let table = try harness.buffer(16)
        harness.driver.writeTable(at: table, [(table, 16, Self.indirect, 0)])
        try expect(.indirectInIndirect, status: false, harness, [(table, 16, Self.indirect, 0)])
    }

    @Test func aPackedIndirectTableKnowsNoFlagButWrite() throws {
        let harness = try QueueHarness(.packed)
        let table = try harness.buffer(16)
        harness.driver.writeTable(at: table, [(QueueHarness.low, 16, Self.indirect | Self.next | Self.write, 0)])
        harness.driver.publishRaw([(table, 16, Self.indirect, 0)])
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == .none)
        #expect(chain.pointee.writableBytes == 16)
    }

    @Test(arguments: Kind.both, [0, 8, 17, 65536 * 16] as [UInt32])
    func indirectTablesOfImpossibleLengthFailTheRequest(_ kind: Kind, length: UInt32) throws {
        let harness = try QueueHarness(kind)
        try expect(.indirectLength, status: false, harness, [(QueueHarness.low, length, Self.indirect, 0)])
    }

    @Test(arguments: Kind.both) func indirectTablesOutsideMemoryFailTheRequest(_ kind: Kind) throws {
        for address in [0, QueueHarness.far + 0x10000 - 8, UInt64.max - 15, UInt64.max] {
            let harness = try QueueHarness(kind)
            try expect(.indirectOutsideMemory, status: false, harness, [(address, 48, Self.indirect, 0)])
        }
    }

    @Test(arguments: Kind.both) func indirectWithoutTheFeatureFailsTheRequest(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        harness.queue = try Virtqueue(
            size: 16, features: kind.features.subtracting(.indirect), memory: harness.guest.snapshot)
        try harness.queue.start(harness.places(), base: kind.isPacked ? Virtqueue.packedBase : 0)
        try expect(.indirectNotNegotiated, status: false, harness, [(QueueHarness.low, 16, Self.indirect, 0)])
    }

    @Test(arguments: Kind.both) func indirectAndNextInOneDescriptorFailsTheRequestInItsStatus(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        let table = try harness.buffer(16)
        harness.driver.writeTable(at: table, [(request.status, 1, Self.write, 0)])
        let flags = Self.indirect | Self.next
        try expect(
            .indirectWithNext, status: true, harness,
            kind.isPacked ? [(table, 16, flags, 0), (0, 0, 0, 0)] : [(table, 16, flags, 1)])
        #expect(harness.status(request.status) == 1)
    }

    // MARK: its buffers

    @Test(arguments: Kind.both, [UInt64(0), 0xFFFF, QueueHarness.far + 0xFFFF, .max, .max - 511] as [UInt64])
    func dataOutsideMemoryFailsTheRequestInItsStatus(_ kind: Kind, address: UInt64) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        harness.driver.publish([
            request.buffers[0], MockBuffer(address, 512, isWritable: true), request.buffers[2],
        ])
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == .addressOutsideMemory)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        guard case .answered = VirtioBlk.decode(chain, disk) else {
            Issue.record("taken for a request")
            return
        }
        #expect(harness.status(request.status) == 1)
    }

    @Test(arguments: Kind.both) func aStatusOutsideMemoryGivesTheBareHeadBack(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let header = try harness.request().buffers[0].address
        let list = [
            (address: header, length: UInt32(16), flags: Self.next, next: UInt16(1)),
            (address: UInt64(0), length: UInt32(1), flags: Self.write, next: UInt16(0)),
        ]
        try expect(.addressOutsideMemory, status: false, harness, list)
    }

    @Test(arguments: Kind.both) func readableAfterWritableFailsTheRequestInItsStatus(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        let list = [
            (address: request.status, length: UInt32(1), flags: Self.next | Self.write, next: UInt16(1)),
            (address: request.buffers[0].address, length: UInt32(16), flags: UInt16(0), next: UInt16(0)),
        ]
        try expect(.readableAfterWritable, status: true, harness, list)
        #expect(harness.status(request.status) == 1)
    }

    @Test(arguments: Kind.both) func moreSegmentsThanReadvTakesFailTheRequestInItsStatus(_ kind: Kind) throws {
        let harness = try QueueHarness(kind, size: 4, tableEntries: 1100)
        let request = try harness.request()
        let many = (0..<1027).map { _ in MockBuffer(request.data, 1, isWritable: true) }
        harness.driver.publish([request.buffers[0]] + many + [request.buffers[2]], indirect: true)
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == .tooManySegments)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        guard case .answered = VirtioBlk.decode(chain, disk) else {
            Issue.record("taken for a request")
            return
        }
        #expect(harness.status(request.status) == 1)
    }

    @Test(arguments: Kind.both) func tablesWithoutEndAreNotWalkedForEver(_ kind: Kind) throws {
        let harness = try QueueHarness(kind, size: 4, tableEntries: 1)
        let count = 65535
        let table = try harness.buffer(count * 16)
        let flags = Self.write | (kind.isPacked ? 0 : Self.next)
        harness.driver.writeTable(
            at: table, (0..<count).map { (QueueHarness.low, 0, flags, UInt16(($0 + 1) & 0xFFFF)) })
        try expect(.endless, status: false, harness, [(table, UInt32(count * 16), Self.indirect, 0)])
    }

    @Test(arguments: Kind.both) func buffersOfFourGigabytesAddUpWithoutOverflow(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let list = (0..<4).map {
            (
                address: QueueHarness.low, length: UInt32.max, flags: Self.write | ($0 < 3 ? Self.next : 0),
                next: UInt16($0 + 1)
            )
        }
        harness.driver.publishRaw(list)
        let chain = try #require(harness.pop())
        #expect(chain.pointee.fault == .addressOutsideMemory)
    }

    @Test(arguments: Kind.both) func aDescriptorIsReadOnce(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let request = try harness.request()
        harness.driver.publish(request.buffers)
        let chain = try #require(harness.pop())
        for i in 0..<16 { harness.driver.writeDescriptor(i, address: 0, length: UInt32.max, flags: nil, next: 0xFFFF) }
        #expect(contents(chain.pointee, harness.memory) == request.buffers)
    }
}
