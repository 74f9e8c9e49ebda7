// Addresses become pointers in one place, and that place is held here.
import Testing
import Virtqueue
import VirtqueueMock

struct GuestMemoryTests {
    private func host() -> UnsafeMutableRawPointer { .allocate(byteCount: 4096, alignment: 4096) }

    @Test func overlappingRegionsAreRefused() throws {
        let place = host()
        defer { place.deallocate() }
        #expect(throws: VirtqueueError.regionsOverlap(GuestAddress(0x1800))) {
            try GuestMemory([
                GuestRegion(guest: GuestAddress(0x1000), size: 0x1000, host: place),
                GuestRegion(guest: GuestAddress(0x1800), size: 0x1000, host: place),
            ])
        }
    }

    @Test(arguments: [
        (UInt64.max, UInt64(2)), (UInt64(0x1000), UInt64(0)), (UInt64(0x8000_0000_0000_0000), UInt64.max),
    ])
    func regionsThatOverflowAreRefused(start: UInt64, size: UInt64) throws {
        let place = host()
        defer { place.deallocate() }
        #expect(throws: VirtqueueError.regionOverflows(GuestAddress(start))) {
            try GuestMemory([GuestRegion(guest: GuestAddress(start), size: size, host: place)])
        }
    }

    @Test func aRegionMayEndAtTheLastAddress() throws {
        let place = host()
        defer { place.deallocate() }
        let memory = try GuestMemory([GuestRegion(guest: GuestAddress(UInt64.max - 4095), size: 4096, host: place)])
        #expect(memory.snapshot.contiguous(GuestAddress(UInt64.max), 1) == place + 4095)
        #expect(memory.snapshot.contiguous(GuestAddress(UInt64.max), 2) == nil)
    }

    @Test func oneMoreRegionThanTheMaximumIsRefused() throws {
        let place = host()
        defer { place.deallocate() }
        func regions(_ count: Int) -> [GuestRegion] {
            (0..<count).map { GuestRegion(guest: GuestAddress(UInt64($0) << 20), size: 4096, host: place) }
        }
        #expect(try GuestMemory(regions(GuestMemory.maxRegions)).regions.count == GuestMemory.maxRegions)
        #expect(throws: VirtqueueError.tooManyRegions(GuestMemory.maxRegions + 1)) {
            try GuestMemory(regions(GuestMemory.maxRegions + 1))
        }
    }

    @Test func memoryWithoutRegionsTranslatesNothing() throws {
        let memory = try GuestMemory()
        #expect(memory.snapshot.contiguous(GuestAddress(0), 1) == nil)
        #expect(memory.snapshot.contiguous(user: 0, 1) == nil)
    }

    @Test func aBufferOverTwoRegionsIsNotOnePiece() throws {
        let harness = try QueueHarness(.split)
        #expect(harness.guest.snapshot.contiguous(GuestAddress(QueueHarness.middle - 1), 2) == nil)
        #expect(harness.guest.snapshot.contiguous(GuestAddress(QueueHarness.middle - 1), 1) != nil)
    }

    @Test(arguments: Kind.both) func requestsInFlightKeepTheirSnapshot(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        harness.driver.publish(try harness.request().buffers)
        let chain = try #require(harness.pop())
        let base = chain.pointee.iovecs[0].iov_base
        try harness.guest.replace(Array(harness.memory.regions.prefix(1)))
        harness.queue.adopt(harness.guest.snapshot, try harness.places())
        #expect(!harness.isSettled)
        #expect(chain.pointee.iovecs[0].iov_base == base)
        harness.driver.publish(try harness.request().buffers)
        let young = try #require(harness.pop())
        harness.push(young, written: 0)
        #expect(!harness.isSettled)
        harness.push(chain, written: 0)
        #expect(harness.isSettled)
        harness.guest.releaseRetired()
        _ = harness.publish()
        #expect(harness.driver.collect().count == 2)
    }

    @Test(arguments: Kind.both) func aRequestReadAfterTheSwapSeesTheNewMemoryOnly(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        try harness.guest.replace(Array(harness.memory.regions.prefix(1)))
        harness.queue.adopt(harness.guest.snapshot, try harness.places())
        harness.driver.publish([MockBuffer(QueueHarness.far, 16, isWritable: true)])
        #expect(harness.drain() == [.addressOutsideMemory])
    }

    @Test func ringsOutsideMemoryAcrossRegionsOrMisalignedAreRefused() throws {
        let harness = try QueueHarness(.split, start: false)
        let places = { (d: UInt64, a: UInt64, u: UInt64) in
            try RingAddresses(
                .guest(descriptors: GuestAddress(d), driver: GuestAddress(a), device: GuestAddress(u)), size: 16,
                isPacked: false, in: harness.guest.snapshot)
        }
        #expect(throws: VirtqueueError.ringOutsideMemory(.descriptors)) {
            try places(0, QueueHarness.low, QueueHarness.low)
        }
        #expect(throws: VirtqueueError.ringOutsideMemory(.descriptors)) {
            try places(QueueHarness.middle - 32, QueueHarness.low, QueueHarness.low)
        }
        #expect(throws: VirtqueueError.ringOutsideMemory(.device)) {
            try places(QueueHarness.low, QueueHarness.low, UInt64.max - 3)
        }
        #expect(throws: VirtqueueError.ringMisaligned(.descriptors)) {
            try places(QueueHarness.low + 8, QueueHarness.low, QueueHarness.low)
        }
        #expect(throws: VirtqueueError.ringMisaligned(.driver)) {
            try places(QueueHarness.low, QueueHarness.low + 1, QueueHarness.low)
        }
        #expect(throws: VirtqueueError.ringMisaligned(.device)) {
            try places(QueueHarness.low, QueueHarness.low, QueueHarness.low + 2)
        }
    }

    @Test func ringAddressesMayBeTheFrontEndsOwn() throws {
        let place = host()
        defer { place.deallocate() }
        let memory = try GuestMemory([
            GuestRegion(guest: GuestAddress(0), size: 4096, user: 0x7F00_0000_0000, host: place)
        ])
        let user: UInt64 = 0x7F00_0000_0000
        let found = try RingAddresses(
            .user(descriptors: user, driver: user + 512, device: user + 1024), size: 16, isPacked: false,
            in: memory.snapshot)
        #expect(found.descriptors == place)
        #expect(found.device == place + 1024)
    }

    @Test(arguments: [0, 3, 65536]) func sizesThatASplitRingCannotHaveAreRefused(_ size: Int) throws {
        let memory = try GuestMemory()
        #expect(throws: VirtqueueError.badSize(size)) {
            _ = try Virtqueue(size: size, features: [], memory: memory.snapshot)
        }
    }
}
