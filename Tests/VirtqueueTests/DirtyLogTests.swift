// A page that was written and not logged is a guest that is corrupt after its migration.
import Glibc
import Testing
import Virtqueue
import VirtqueueMock

struct DirtyLogTests {
    /// Bitmap of pages over everything the harness has.
    private final class Bitmap {
        let bytes = 1 << 18
        let bits: UnsafeMutableRawPointer
        init() {
            bits = .allocate(byteCount: bytes, alignment: 64)
            bits.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        }
        deinit { bits.deallocate() }
        var log: DirtyLog { DirtyLog(bits: bits, bytes: bytes) }
        /// The dirty pages, which are clean again.
        func take() -> Set<UInt64> {
            var pages: Set<UInt64> = []
            for i in 0..<bytes * 8 where bits.load(fromByteOffset: i / 8, as: UInt8.self) & 1 << (i % 8) != 0 {
                pages.insert(UInt64(i))
            }
            bits.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
            return pages
        }
    }

    @Test(arguments: Kind.both) func buffersTheDeviceWroteAreLoggedAndOthersNot(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let bitmap = Bitmap()
        let written = QueueHarness.far + 0x1800
        harness.driver.publish([
            MockBuffer(QueueHarness.low + 0x20_0000, 16, isWritable: false),
            MockBuffer(written, 0x1000, isWritable: true),
            MockBuffer(QueueHarness.far + 0x8000, 1, isWritable: true),
        ])
        harness.queue.setLog(bitmap.log, ring: false)
        let chain = try #require(harness.pop())
        harness.memory.writeHeader(at: QueueHarness.low + 0x20_0000)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        // The codec trims the chain; the status byte must be logged all the same.
        guard case .request = VirtioBlk.decode(chain, disk) else {
            Issue.record("no request")
            return
        }
        harness.push(chain, written: VirtioBlk.finish(chain, .ok))
        _ = harness.publish()
        #expect(bitmap.take() == [(written >> 12), (written >> 12) + 1, (QueueHarness.far + 0x8000) >> 12])
    }

    @Test func usedRingWritesAreLoggedWhenAsked() throws {
        let harness = try QueueHarness(.split, start: false)
        let bitmap = Bitmap()
        try harness.queue.start(harness.places(), base: 0, usedGuestAddress: GuestAddress(harness.driver.deviceArea))
        harness.queue.setLog(bitmap.log, ring: true)
        harness.driver.publish([MockBuffer(QueueHarness.far, 8, isWritable: false)])
        _ = harness.drain()
        #expect(bitmap.take() == [harness.driver.deviceArea >> 12])
        harness.queue.disableKicks()
        #expect(bitmap.take() == [harness.driver.deviceArea >> 12])
    }

    /// The areas of a ring may lie anywhere, and QEMU's only number for them is the device area's. What is written with
    /// `publish` is marked after it: a page that is copied in between would miss it.
    @Test func writesToAPackedRingAreLoggedWhereTheMemoryTableHasIt() throws {
        let harness = try QueueHarness(.packed, size: 512, start: false, spacing: 0x10000)
        let bitmap = Bitmap()
        harness.queue.setLog(bitmap.log, ring: true)
        let elsewhere = GuestAddress(QueueHarness.low + 0x30_0000)
        try harness.queue.start(harness.places(), base: Virtqueue.packedBase, usedGuestAddress: elsewhere)
        let entries = harness.driver.descriptorArea
        #expect(entries >> 12 != harness.driver.deviceArea >> 12)
        harness.queue.disableKicks()
        #expect(bitmap.take() == [harness.driver.deviceArea >> 12])
        // Two pages of entries; the batch begins on the first and ends on the second.
        for _ in 0..<300 { harness.driver.publish([MockBuffer(QueueHarness.far, 8, isWritable: false)]) }
        var chains: [UnsafeMutablePointer<DescriptorChain>] = []
        while let chain = harness.pop() { chains.append(chain) }
        for chain in chains { harness.push(chain, written: 0) }
        #expect(bitmap.take() == [entries >> 12, (entries >> 12) + 1])
        _ = harness.publish()
        #expect(bitmap.take() == [entries >> 12])
        _ = harness.enableKicks()
        #expect(bitmap.take() == [harness.driver.deviceArea >> 12])
    }

    /// The places of a ring change with the memory table.
    @Test func aPackedRingIsLoggedWhereTheNewMemoryTableHasIt() throws {
        let harness = try QueueHarness(.packed, spacing: 0x10000)
        let bitmap = Bitmap()
        harness.queue.setLog(bitmap.log, ring: true)
        let moved: UInt64 = 0x1000_0000
        let regions = harness.memory.regions.map {
            GuestRegion(guest: GuestAddress($0.guest.raw + moved), size: $0.size, host: $0.host)
        }
        try harness.guest.replace(regions)
        let places = try RingAddresses(
            .guest(
                descriptors: GuestAddress(harness.driver.descriptorArea + moved),
                driver: GuestAddress(harness.driver.driverArea + moved),
                device: GuestAddress(harness.driver.deviceArea + moved)), size: 16, isPacked: true,
            in: harness.guest.snapshot)
        harness.queue.adopt(harness.guest.snapshot, places)
        harness.driver.publish([MockBuffer(QueueHarness.far + moved, 8, isWritable: false)])
        _ = harness.drain()
        #expect(bitmap.take() == [(harness.driver.descriptorArea + moved) >> 12])
        harness.queue.disableKicks()
        #expect(bitmap.take() == [(harness.driver.deviceArea + moved) >> 12])
    }

    /// A record of requests in flight makes the next process write entries before it publishes anything.
    @Test func entriesThatAreTakenBackAreLogged() throws {
        let record = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
        defer { record.deallocate() }
        record.initializeMemory(as: UInt8.self, repeating: 0, count: 4096)
        let memory = InflightMemory(base: record, bytes: 4096)
        let harness = try QueueHarness(.packed, start: false, spacing: 0x10000)
        try harness.queue.start(harness.places(), base: Virtqueue.packedBase, inflight: memory)
        harness.driver.publish([MockBuffer(QueueHarness.far, 8, isWritable: false)])
        _ = harness.pop()
        let bitmap = Bitmap()
        var next = try Virtqueue(size: 16, features: Kind.packed.features, memory: harness.guest.snapshot)
        next.setLog(bitmap.log, ring: true)
        try next.start(harness.places(), base: Virtqueue.packedBase, inflight: memory)
        #expect(bitmap.take() == [harness.driver.descriptorArea >> 12])
    }

    @Test func pagesBeyondTheLogAreNotTouched() {
        let bitmap = Bitmap()
        let log = DirtyLog(bits: bitmap.bits, bytes: 1)
        log.mark(0, UInt64.max)
        log.mark(UInt64.max - 5, 100)
        log.mark(0x8000, 1)
        #expect(bitmap.take() == Set(0..<8))
        DirtyLog(bits: bitmap.bits, bytes: 0).mark(0, 1)
        #expect(bitmap.take() == [])
    }
}

extension DriverMemory {
    fileprivate func writeHeader(at address: UInt64) { write([UInt8](repeating: 0, count: 16), at: address) }
}
