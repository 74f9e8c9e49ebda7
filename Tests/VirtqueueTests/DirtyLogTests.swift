// Why this file exists: a page that was written and not logged is a guest that is corrupt after its migration.
import Glibc
import Testing
import Virtqueue
import VirtqueueMock

struct DirtyLogTests {
    /// Bitmap of pages over everything the rig has.
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
        let rig = try Rig(kind)
        let bitmap = Bitmap()
        let written = Rig.far + 0x1800
        rig.driver.publish([
            MockBuffer(Rig.low + 0x20_0000, 16, isWritable: false), MockBuffer(written, 0x1000, isWritable: true),
            MockBuffer(Rig.far + 0x8000, 1, isWritable: true),
        ])
        rig.queue.setLog(bitmap.log, ring: false)
        let chain = try #require(rig.pop())
        rig.memory.writeHeader(at: Rig.low + 0x20_0000)
        let disk = try #require(VirtioBlkDisk(capacityBytes: 1 << 20))
        // The codec trims the chain; the status byte must be logged all the same.
        guard case .request = VirtioBlk.decode(chain, disk) else {
            Issue.record("no request")
            return
        }
        rig.push(chain, written: VirtioBlk.finish(chain, .ok))
        _ = rig.publish()
        #expect(bitmap.take() == [(written >> 12), (written >> 12) + 1, (Rig.far + 0x8000) >> 12])
    }

    @Test func usedRingWritesAreLoggedWhenAsked() throws {
        let rig = try Rig(.split, start: false)
        let bitmap = Bitmap()
        try rig.queue.start(rig.places(), base: 0, usedGuestAddress: GuestAddress(rig.driver.deviceArea))
        rig.queue.setLog(bitmap.log, ring: true)
        rig.driver.publish([MockBuffer(Rig.far, 8, isWritable: false)])
        _ = rig.drain()
        #expect(bitmap.take() == [rig.driver.deviceArea >> 12])
        rig.queue.disableKicks()
        #expect(bitmap.take() == [rig.driver.deviceArea >> 12])
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

extension MockMemory {
    fileprivate func writeHeader(at address: UInt64) { write([UInt8](repeating: 0, count: 16), at: address) }
}
