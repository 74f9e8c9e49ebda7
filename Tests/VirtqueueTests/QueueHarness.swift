// A driver and a device over the same memory, for every test of the rings; the tests run over both ring formats
// wherever the claim is about both.
import DiskTypes
import Glibc
import TestKit
import Testing
import Virtqueue
import VirtqueueMock

enum Kind: String, CaseIterable, CustomTestStringConvertible, Sendable {
    case split, splitEvent, packed, packedEvent

    var testDescription: String { rawValue }
    var isPacked: Bool { self == .packed || self == .packedEvent }
    var features: RingFeatures {
        switch self {
        case .split: [.indirect]
        case .splitEvent: [.indirect, .eventIndex]
        case .packed: [.indirect, .packed]
        case .packedEvent: [.indirect, .packed, .eventIndex]
        }
    }
    static let both: [Kind] = [.split, .packed]
}

/// Guest memory in two regions that touch (0x10000 and up) and a third apart, a driver, and the device's queue.
final class QueueHarness {
    static let low: UInt64 = 0x10000
    static let lowBytes = 0x40_0000
    static var middle: UInt64 { low + UInt64(lowBytes) }
    static let far: UInt64 = 0x1_0000_0000

    let memory: DriverMemory
    let guest: GuestMemory
    let driver: MockDriver
    var queue: Virtqueue

    init(
        _ kind: Kind, size: Int = 16, features more: RingFeatures = [], tableEntries: Int = 8, start: Bool = true,
        spacing: UInt64 = 16
    ) throws {
        memory = DriverMemory([(Self.low, Self.lowBytes), (Self.middle, 0x10000), (Self.far, 0x10000)])
        guest = try GuestMemory(memory.regions)
        let features = kind.features.union(more)
        guard
            let driver = MockDriver(
                memory: memory, size: size, features: features, tableEntries: tableEntries, spacing: spacing)
        else { throw TestFailure("no room in the guest memory") }
        self.driver = driver
        queue = try Virtqueue(size: size, features: features, memory: guest.snapshot)
        if start { try queue.start(places(), base: kind.isPacked ? Virtqueue.packedBase : 0) }
    }

    // The queue is not copyable, which `#expect` cannot look into.
    func pop() -> UnsafeMutablePointer<DescriptorChain>? { queue.pop() }
    func push(_ chain: UnsafeMutablePointer<DescriptorChain>, written: UInt32) { queue.push(chain, written: written) }
    func publish() -> Bool { queue.publish() }
    func enableKicks() -> Bool { queue.enableKicks() }
    var damage: RingError { queue.damage }
    var inFlight: Int { queue.inFlight }
    var refused: UInt64 { queue.refused }
    var isSettled: Bool { queue.isSettled }
    var hasAvailable: Bool { queue.hasAvailable }
    var replaysLeft: Int { queue.replaysLeft }

    func places() throws -> RingAddresses {
        try RingAddresses(driver.addresses, size: driver.size, isPacked: driver.isPacked, in: guest.snapshot)
    }

    func buffer(_ bytes: Int) throws -> UInt64 {
        guard let address = memory.allocate(bytes) else { throw TestFailure("no room in the guest memory") }
        return address
    }

    /// Header, data, status: an ordinary request. The addresses of the three.
    func request(
        type: UInt32 = 0, sector: UInt64 = 0, data: Int = 512
    ) throws -> (buffers: [MockBuffer], data: UInt64, status: UInt64) {
        let header = try buffer(16)
        let body = try buffer(max(data, 1))
        let status = try buffer(1)
        writeHeader(at: header, type: type, sector: sector)
        memory.write([0xFF], at: status)
        return (
            [
                MockBuffer(header, 16, isWritable: false),
                MockBuffer(body, UInt32(data), isWritable: type == 0 || type == 8),
                MockBuffer(status, 1, isWritable: true),
            ], body, status
        )
    }

    func writeHeader(at address: UInt64, type: UInt32, sector: UInt64) {
        memory.store(type, at: address)
        memory.store(UInt32(0), at: address + 4)
        memory.store(sector, at: address + 8)
    }

    /// Pops, pushes with nothing written and publishes whatever is there; the faults seen.
    func drain() -> [ChainFault] {
        var faults: [ChainFault] = []
        while let chain = queue.pop() {
            faults.append(chain.pointee.fault)
            queue.push(chain, written: 0)
        }
        _ = queue.publish()
        return faults
    }

    /// Pops one, decodes it for `disk`; answers it when the codec did, and gives what it decoded to.
    func serve(_ disk: VirtioBlkDisk) -> BlockRequest? {
        guard let chain = queue.pop() else { return nil }
        switch VirtioBlk.decode(chain, disk) {
        case .request(let request): return request
        case .answered(let written):
            queue.push(chain, written: written)
            _ = queue.publish()
            return nil
        }
    }

    func status(_ address: UInt64) -> UInt8 { memory.read(1, at: address)[0] }
}

/// What a chain's iovecs hold, as (guest address, length, writable).
func contents(_ chain: DescriptorChain, _ memory: DriverMemory) -> [MockBuffer] {
    (0..<Int(chain.readableCount + chain.writableCount)).map { i in
        let vector = chain.iovecs[i]
        let region = memory.regions.first {
            guard let base = vector.iov_base else { return false }
            return base >= $0.host && base < $0.host + Int($0.size)
        }
        let address = region.flatMap { r in vector.iov_base.map { r.guest.raw + UInt64($0 - r.host) } }
        return MockBuffer(address ?? 0, UInt32(vector.iov_len), isWritable: i >= Int(chain.readableCount))
    }
}
