// A guest in the middle of a migration, as the dirty log's checker needs it: its driver writes nothing while the server
// does, so that every byte that changes then is the server's. Its rings' areas lie far apart, as in a real guest.
import DiskTypes
import Foundation
import Glibc
import LinuxIO
import Synchronization
import SystemPackage
import TestKit
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import VirtqueueMock

final class LoggedGuest {
    /// What the front-end does wrong, to see that the checker finds it.
    enum Fault: String, CaseIterable, CustomStringConvertible {
        case none
        /// VHOST_VRING_F_LOG is not set.
        case ringNotLogged
        /// LOG_ALL is not agreed on.
        case nothingLogged
        var description: String { rawValue }
    }

    let served: Served
    let frontend: VhostUserFrontend
    let queueDriver: QueueDriver
    let replica: MemoryReplica
    private let rings: Rings
    private let fault: Fault
    private var random: SeededRandom
    private var slots = 0
    /// What the device may write for the requests so far: data and status.
    private(set) var allowed: Set<UInt64> = []

    static let slotBytes: UInt64 = 0x8000
    static let slotCount = 400
    private static let arena: UInt64 = 0x1_0000_0000
    private static let diskBytes = 4 << 20

    init(_ rings: Rings, fault: Fault = .none, seed: UInt64) throws {
        self.rings = rings
        self.fault = fault
        random = SeededRandom(seed)
        served = try Served(workers: 1)
        var options = rings.options
        options.queueSize = 256
        options.protocolFeatures.formUnion([.logSharedMemory, .inflightSharedMemory])
        options.memory = [(0, 4 << 20), (Self.arena, Int(Self.slotBytes) * Self.slotCount)]
        frontend = try VhostUserFrontend.connect(try FilePath(served.disk(Self.diskBytes)), options)
        queueDriver = try QueueDriver(frontend, spacing: 0x10000)
        replica = try MemoryReplica(of: frontend.memory.guest)
        try share()
    }

    /// Features, record, memory and log; the ring is described by `begin`.
    private func share() throws {
        let logAll = fault == .nothingLogged ? 0 : VirtioBlk.Feature.logAll
        try frontend.start()
        try frontend.stop()
        let description = LogDescription(mmapSize: UInt64(replica.log.memory.count), mmapOffset: 0)
        try frontend.ask(.setLogBase, description, descriptors: [replica.log.memory.fd])
        try frontend.ask(.setFeatures, WireNumber(frontend.features | logAll))
    }

    /// Starts the ring as QEMU does in a migration: the log's address is the device area's, of split and packed rings.
    func begin() throws {
        let queue = queueDriver.queue
        let index = UInt32(queue.index)
        try frontend.ask(.setVringNum, VringState(index: index, num: UInt32(queue.areas.size)))
        try frontend.ask(.setVringBase, VringState(index: index, num: queue.base))
        let logged: UInt64? = fault == .ringNotLogged ? nil : queue.areas.device
        try frontend.ask(.setVringAddress, frontend.address(of: queue, logged: logged))
        try frontend.ask(.setVringCall, VringEvent(index: index), descriptors: [queue.call.raw])
        try frontend.ask(.setVringKick, VringEvent(index: index), descriptors: [queue.kick.raw])
        queue.kick.signal()
        try frontend.ask(.setVringEnable, VringState(index: index, num: 1))
    }

    /// Waits until all is answered, without a store into the guest's memory. False: the ring is stuck.
    func waitForAnswers(seconds: Double = 20) -> Bool {
        let end = MonotonicClock.milliseconds() + Int64(seconds * 1000)
        while queueDriver.driver.inFlight > 0 {
            if queueDriver.driver.nextUsedBuffer() == nil {
                guard MonotonicClock.milliseconds() < end else { return false }
                usleep(200)
            }
        }
        return true
    }

    /// GET_VRING_BASE; what was answered by then is taken in.
    func end() throws {
        try frontend.stop(queueDriver.queue)
        _ = queueDriver.driver.collect()
    }

    // MARK: requests

    /// Makes a random request available. Nothing of it shares a page with another request of the last `slotCount`.
    func publish() -> Bool {
        let at = Self.arena + UInt64(slots % Self.slotCount) * Self.slotBytes
        typealias Kind = VirtioBlk.RequestType
        let type = [Kind.read, Kind.read, Kind.write, Kind.flush, Kind.getID, Kind.writeZeroes, 99][random.below(7)]
        let bytes = type == Kind.getID ? 20 : 512 * (1 + random.below(24))
        let data = at + 0x1000 + UInt64(random.below(0x800))
        let status = at + 0x6000 + UInt64(random.below(0x2000))
        queueDriver.memory.putHeader(type: type, sector: UInt64(random.below(Self.diskBytes / 512 - 24)), at: at)
        queueDriver.memory.fill(0xff, 1, at: status)
        var buffers = [MockBuffer(at, 16, isWritable: false)]
        switch type {
        case Kind.read, Kind.getID:
            queueDriver.memory.fill(0xee, bytes, at: data)
            buffers += cut(data, bytes, isWritable: true)
        case Kind.write: buffers += cut(data, bytes, isWritable: false)
        case Kind.writeZeroes:
            queueDriver.memory.store(UInt64(random.below(1000)), at: data)
            queueDriver.memory.store(UInt64(8), at: data + 8)
            buffers.append(MockBuffer(data, 16, isWritable: false))
        default: break
        }
        // One in ten names memory that does not exist: its status is written all the same.
        if random.below(10) == 0 { buffers.append(MockBuffer(0xdead_0000_0000, 16, isWritable: true)) }
        buffers.append(MockBuffer(status, 1, isWritable: true))
        guard queueDriver.driver.publish(buffers, indirect: random.below(2) == 0) != nil else { return false }
        slots += 1
        for buffer in buffers where buffer.isWritable && buffer.address >> 40 == 0 {
            allowed.formUnion(buffer.address >> 12...(buffer.address + UInt64(buffer.length) - 1) >> 12)
        }
        return true
    }

    private func cut(_ data: UInt64, _ bytes: Int, isWritable: Bool) -> [MockBuffer] {
        let first = random.below(2) == 0 ? bytes : 1 + random.below(bytes)
        let parts = [(0, first), (first, bytes - first)].filter { $0.1 > 0 }
        return parts.map { MockBuffer(data + UInt64($0.0), UInt32($0.1), isWritable: isWritable) }
    }

    /// Pages of the ring that the device writes.
    var ringPages: Set<UInt64> {
        let size = queueDriver.driver.size
        let used = rings.isPacked ? RingLayout.eventBytes : RingLayout.usedBytes(size: size)
        var pages = Set(queueDriver.driver.deviceArea >> 12...(queueDriver.driver.deviceArea + UInt64(used) - 1) >> 12)
        if rings.isPacked {
            let last = queueDriver.driver.descriptorArea + UInt64(RingLayout.descriptorBytes * size) - 1
            pages.formUnion(queueDriver.driver.descriptorArea >> 12...last >> 12)
        }
        return pages
    }
}

/// Copies marked pages on a thread of its own until it is told to stop.
final class CopyingThread {
    private let stops: Stop
    private let done = DispatchSemaphore(value: 0)
    private final class Stop: Sendable { let isWanted = Atomic<Bool>(false) }

    init(_ replica: MemoryReplica) {
        let (stops, done) = (Stop(), done)
        self.stops = stops
        Thread.detachNewThread {
            while !stops.isWanted.load(ordering: .relaxed) { replica.copyMarked() }
            done.signal()
        }
    }

    func join() {
        stops.isWanted.store(true, ordering: .relaxed)
        done.wait()
    }
}
