// A queue whose driver lays requests out as wildly as it may: any cut, any alignment, buffers that cross from one
// region of memory into the next.
import Glibc
import TestKit
import VhostUserFrontend
import Virtqueue
import VirtqueueMock

/// A queue of a front-end and its driver. Make it before the front-end starts.
final class QueueDriver {
    let driver: MockDriver
    let queue: FrontendQueue
    let memory: DriverMemory
    let isIndirectAgreed: Bool
    /// Kept: with it the connection and the memory would go.
    private let frontend: VhostUserFrontend

    /// `region`: where the rings are. `spacing`: see `MockDriver`.
    init(_ frontend: VhostUserFrontend, tableEntries: Int = 64, region: Int = 0, spacing: UInt64 = 16) throws {
        self.frontend = frontend
        memory = frontend.memory.guest
        guard
            let driver = MockDriver(
                memory: memory, size: frontend.options.queueSize, features: frontend.ringFeatures,
                tableEntries: tableEntries, region: region, spacing: spacing)
        else { throw TestFailure("no room for a ring") }
        self.driver = driver
        isIndirectAgreed = frontend.ringFeatures.contains(.indirect)
        queue = try frontend.addQueue(
            RingAreas(
                size: driver.size, descriptors: driver.descriptorArea, driver: driver.driverArea,
                device: driver.deviceArea))
    }

    /// Tells the device, if it wants to be told.
    func kick() { if driver.needsKick() { queue.kick.signal() } }
}

extension DriverMemory {
    /// The contiguous parts of a range of guest memory.
    func parts(_ address: UInt64, _ count: Int, _ body: (UnsafeMutableRawPointer, _ done: Int, _ length: Int) -> Void) {
        var done = 0
        while done < count {
            let at = address + UInt64(done)
            guard let region = regions.first(where: { at &- $0.guest.raw < $0.size }) else { return }
            let offset = Int(at - region.guest.raw)
            let length = min(count - done, Int(region.size) - offset)
            body(region.host + offset, done, length)
            done += length
        }
    }
    func put(_ source: UnsafeRawPointer, _ count: Int, at address: UInt64) {
        parts(address, count) { memory, done, length in memcpy(memory, source + done, length) }
    }
    func fill(_ byte: UInt8, _ count: Int, at address: UInt64) {
        parts(address, count) { memory, _, length in memset(memory, Int32(byte), length) }
    }
    func holds(_ wanted: UnsafeRawPointer, _ count: Int, at address: UInt64) -> Bool {
        var isEqual = true
        parts(address, count) { memory, done, length in
            if memcmp(memory, wanted + done, length) != 0 { isEqual = false }
        }
        return isEqual
    }
    /// Header of a request.
    func putHeader(type: UInt32, sector: UInt64, at address: UInt64) {
        let words = (UInt64(type).littleEndian, sector.littleEndian)
        withUnsafeBytes(of: words) { if let base = $0.baseAddress { put(base, 16, at: address) } }
    }
    func byte(_ address: UInt64) -> UInt8 { load(UInt8.self, at: address) }
}
