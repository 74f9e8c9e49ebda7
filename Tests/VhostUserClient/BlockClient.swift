// A queue with a driver that does one virtio-blk request after another, or a few at once, and takes the answer apart:
// what tests want. The benchmark has a leaner one.
import DiskTypes
import SystemPackage
public import VhostUserFrontend
import Virtqueue
public import VirtqueueMock

/// One virtio-blk request (virtio 1.3, section 5.2.6).
public struct ClientRequest: Sendable {
    /// A number of `VirtioBlk.RequestType`, or any other.
    public var type: UInt32
    /// The first sector, of 512 bytes.
    public var sector: UInt64
    /// Bytes for the device, behind the header.
    public var out: [UInt8]
    /// Bytes of room for what the device answers before the status.
    public var room: Int
    /// Number of buffers into which the data is cut.
    public var segments = 1

    /// A request of any type; nothing is checked.
    public init(type: UInt32, sector: UInt64 = 0, out: [UInt8] = [], room: Int = 0) {
        self.type = type
        self.sector = sector
        self.out = out
        self.room = room
    }

    /// Reads `count` bytes from `sector` on.
    public static func read(sector: UInt64, count: Int) -> ClientRequest {
        ClientRequest(type: VirtioBlk.RequestType.read, sector: sector, room: count)
    }
    /// Writes the bytes from `sector` on.
    public static func write(sector: UInt64, _ bytes: [UInt8]) -> ClientRequest {
        ClientRequest(type: VirtioBlk.RequestType.write, sector: sector, out: bytes)
    }
    /// Makes all writes that were answered durable.
    public static let flush = ClientRequest(type: VirtioBlk.RequestType.flush)
    /// Asks for the serial number.
    public static let getID = ClientRequest(type: VirtioBlk.RequestType.getID, room: VirtioBlk.idBytes)
    /// Gives up `count` sectors from `sector` on.
    public static func discard(sector: UInt64, count: UInt32) -> ClientRequest {
        ClientRequest(type: VirtioBlk.RequestType.discard, out: segment(sector, count, 0))
    }
    /// Makes `count` sectors from `sector` on read as zeros; `unmap`: their storage may be given up.
    public static func writeZeroes(sector: UInt64, count: UInt32, unmap: Bool = false) -> ClientRequest {
        ClientRequest(
            type: VirtioBlk.RequestType.writeZeroes,
            out: segment(sector, count, unmap ? VirtioBlk.Segment.unmap : 0))
    }

    /// Little-endian sector, sectors, flags.
    private static func segment(_ sector: UInt64, _ count: UInt32, _ flags: UInt32) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: sector >> (8 * $0)) }
            + (0..<4).map { UInt8(truncatingIfNeeded: count >> (8 * $0)) }
            + (0..<4).map { UInt8(truncatingIfNeeded: flags >> (8 * $0)) }
    }
}

/// What the device answered.
public struct ClientAnswer: Equatable, Sendable {
    /// The status byte; 0xff: the device did not write one.
    public let status: UInt8
    /// The room of the request after the answer, whatever part of it the device wrote.
    public let data: [UInt8]
    /// The length in the used element.
    public let written: UInt32
    /// The status is VIRTIO_BLK_S_OK.
    public var isOK: Bool { status == RequestStatus.ok.rawValue }
}

/// A queue of a front-end with its driver. To be made before the front-end starts. For one thread.
public final class BlockClient {
    /// The queue as the front-end knows it.
    public let queue: FrontendQueue
    /// The driver of its ring.
    public let driver: MockDriver
    /// The session. Held, because the connection and the memory end with it.
    public let frontend: VhostUserFrontend
    private let memory: DriverMemory
    private let milliseconds: Int32
    private var pending: [UInt16: Pending] = [:]
    private var freed: [Area] = []
    private var done: [UInt16: ClientAnswer] = [:]
    private let isIndirect: Bool

    private struct Area {
        let address: UInt64
        let bytes: Int
    }
    private struct Pending {
        let area: Area
        let readable: Int
        let room: Int
    }

    /// Adds a queue to the front-end, with its ring in memory region `region`. Throws `.memoryFull`, and `.system` when
    /// there are no eventfds.
    public init(_ frontend: VhostUserFrontend, region: Int = 0) throws(FrontendError) {
        self.frontend = frontend
        memory = frontend.memory.guest
        guard
            let driver = MockDriver(
                memory: memory, size: frontend.options.queueSize, features: frontend.ringFeatures, region: region)
        else { throw .memoryFull }
        self.driver = driver
        isIndirect = frontend.ringFeatures.contains(.indirect)
        milliseconds = frontend.options.milliseconds
        queue = try frontend.addQueue(
            RingAreas(
                size: driver.size, descriptors: driver.descriptorArea, driver: driver.driverArea,
                device: driver.deviceArea))
    }

    /// Publishes a request; the number it returns is for `finish`. The device is not told before `kickIfNeeded`, or
    /// `finish`. Throws `.memoryFull` when memory or ring have no room.
    public func begin(_ request: ClientRequest) throws(FrontendError) -> UInt16 {
        let readable = VirtioBlk.Header.bytes + request.out.count
        let area = try place(readable + request.room + 1)
        memory.store(request.type, at: area.address)
        memory.store(UInt32(0), at: area.address + 4)
        memory.store(request.sector, at: area.address + 8)
        memory.write(request.out, at: area.address + 16)
        memory.store(UInt8(0xff), at: area.address + UInt64(readable + request.room))
        var buffers = [MockBuffer(area.address, UInt32(VirtioBlk.Header.bytes), isWritable: false)]
        let data = area.address + UInt64(VirtioBlk.Header.bytes)
        let isRead = request.out.isEmpty
        let bytes = isRead ? request.room : request.out.count
        let step = max((bytes + request.segments - 1) / max(request.segments, 1), 1)
        for start in stride(from: 0, to: bytes, by: step) {
            buffers.append(MockBuffer(data + UInt64(start), UInt32(min(step, bytes - start)), isWritable: isRead))
        }
        buffers.append(MockBuffer(area.address + UInt64(readable + request.room), 1, isWritable: true))
        let fits = buffers.count <= driver.tableEntries
        guard let id = driver.publish(buffers, indirect: isIndirect && fits) else { throw .memoryFull }
        pending[id] = Pending(area: area, readable: readable, room: request.room)
        return id
    }

    /// Kicks the device, if it asked for that.
    public func kickIfNeeded() { if driver.needsKick() { queue.kick.signal() } }

    /// Waits for the answer of request `id`, asleep on the call eventfd. Throws `.requestLost` when nothing comes for
    /// `options.milliseconds`.
    public func finish(_ id: UInt16) throws(FrontendError) -> ClientAnswer {
        kickIfNeeded()
        while true {
            collect()
            if let answer = done.removeValue(forKey: id) { return answer }
            if driver.enableSignals() { continue }
            do throws(Errno) {
                guard try queue.call.wait(milliseconds: milliseconds) else {
                    throw Errno.timedOut
                }
            } catch {
                if error == .timedOut { throw .requestLost(queue: queue.index) }
                throw .system("cannot wait for the back-end", error)
            }
            queue.call.take()
        }
    }

    /// Publishes a request and waits for its answer. Throws as `begin` and `finish` do.
    public func perform(_ request: ClientRequest) throws(FrontendError) -> ClientAnswer {
        try finish(begin(request))
    }

    /// Collects the answers that are there; returns how many requests have none yet.
    @discardableResult public func collect() -> Int {
        while let used = driver.nextUsedBuffer() {
            guard let one = pending.removeValue(forKey: used.id) else { continue }
            let data = one.area.address + UInt64(one.readable)
            done[used.id] = ClientAnswer(
                status: memory.load(UInt8.self, at: data + UInt64(one.room)),
                data: memory.read(one.room, at: data), written: used.written)
            freed.append(one.area)
        }
        return pending.count
    }

    /// Memory for a request: that of a finished one, or new pages.
    private func place(_ bytes: Int) throws(FrontendError) -> Area {
        if let i = freed.firstIndex(where: { $0.bytes >= bytes }) { return freed.remove(at: i) }
        let rounded = (bytes + 4095) & ~4095
        guard let address = memory.allocate(rounded, alignment: 4096) else { throw .memoryFull }
        return Area(address: address, bytes: rounded)
    }
}
