// A disk under load is right when every byte that comes back is the one that was written last. This keeps a flat
// array beside the disk and many random requests in flight, none of which fights another for the same bytes; whatever
// else a test does meanwhile (kill the server, change its memory, stop its rings) must not be seen in here.
import DiskTypes
import Glibc
import TestKit
import VhostUserFrontend
import Virtqueue
import VirtqueueMock

/// What requests may look like.
struct LoadStyle: Sendable {
    /// Requests in flight in each queue.
    var depth = 12
    var largest = 64 << 10
    /// Pieces that the data may be cut into.
    var segments = 12
    /// Pieces begin and end anywhere; else at multiples of this.
    var alignment = 1
    /// Sectors come in multiples of this.
    var blockSectors = 1
    var zeroes = true
    var flushes = true
    var writes = true
}

final class Load {
    /// One request in flight.
    private struct Flight {
        let type: UInt32
        let start: Int
        let length: Int
        let slot: Int
        let data: UInt64
        let status: UInt64
    }

    let queueDrivers: [QueueDriver]
    let style: LoadStyle
    let model: UnsafeMutableRawPointer
    let size: Int
    private var noise: SeededRandom
    private var flights: [[UInt16: Flight]]
    private var freeSlots: [[Int]]
    private let slotBytes: Int
    private let arena: UInt64
    private let memory: DriverMemory
    /// Answered so far.
    private(set) var completed = 0
    /// The first thing that went wrong.
    private(set) var failure: String?
    let seed: UInt64

    /// `arena`: guest memory for buffers, of at least `Load.room(queueDrivers, style)` bytes. The disk holds `content`.
    init(
        _ queueDrivers: [QueueDriver], arena: UInt64, content: [UInt8], style: LoadStyle,
        seed: UInt64 = .random(in: 1...9999)
    ) {
        self.queueDrivers = queueDrivers
        self.style = style
        self.seed = seed
        size = content.count
        model = .allocate(byteCount: size, alignment: 4096)
        noise = SeededRandom(seed)
        flights = queueDrivers.map { _ in [:] }
        freeSlots = queueDrivers.indices.map { queueDriver in (0..<style.depth).map { queueDriver * style.depth + $0 } }
        slotBytes = Self.slotBytes(style)
        self.arena = arena
        memory = queueDrivers[0].memory
        content.withUnsafeBytes { if let base = $0.baseAddress { memcpy(model, base, size) } }
    }

    deinit { model.deallocate() }

    private static func slotBytes(_ style: LoadStyle) -> Int { (style.largest + 3 * 4096 + 4095) & ~4095 }
    static func room(queueDrivers: Int, _ style: LoadStyle) -> Int { queueDrivers * style.depth * slotBytes(style) }

    var inFlight: Int { flights.reduce(0) { $0 + $1.count } }
    private func fail(_ what: String) { if failure == nil { failure = "\(what) (seed \(seed))" } }
    func below(_ limit: Int) -> Int { noise.below(limit) }

    // MARK: out

    /// Begins requests until every queue has as many as it may; kicks when asked to.
    func fill() {
        for index in queueDrivers.indices {
            while !freeSlots[index].isEmpty, begin(index) {}
            queueDrivers[index].kick()
        }
    }

    private func collides(_ start: Int, _ length: Int, isWrite: Bool) -> Bool {
        for queueDriver in flights {
            for (_, other) in queueDriver
            where start < other.start + other.length && other.start < start + length
                && (isWrite || other.type != VirtioBlk.RequestType.read)
            { return true }
        }
        return false
    }

    private func begin(_ index: Int) -> Bool {
        // A write that has changed the array must go out: room for the longest chain, or none of this.
        guard queueDrivers[index].driver.room >= style.segments + 3 else { return false }
        let unit = style.blockSectors * 512
        let length = unit * (1 + below(below(4) == 0 ? style.largest / unit : min(style.largest / unit, 8)))
        let start = unit * below((size - length) / unit + 1)
        let dice = below(100)
        var type = dice < 50 || !style.writes ? VirtioBlk.RequestType.read : VirtioBlk.RequestType.write
        if style.writes, dice >= 90, style.zeroes { type = VirtioBlk.RequestType.writeZeroes }
        if dice >= 97, style.flushes { type = VirtioBlk.RequestType.flush }
        let isFlush = type == VirtioBlk.RequestType.flush
        if !isFlush, collides(start, length, isWrite: type != VirtioBlk.RequestType.read) { return true }
        guard let slot = freeSlots[index].popLast() else { return false }
        let skew = style.alignment == 1 ? below(600) : 0
        let header = arena + UInt64(slot * slotBytes) + UInt64(below(64))
        let data = arena + UInt64(slot * slotBytes + 4096 + skew)
        let status = arena + UInt64((slot + 1) * slotBytes - 1 - below(64))
        memory.putHeader(type: type, sector: isFlush ? 0 : UInt64(start / 512), at: header)
        memory.fill(0xff, 1, at: status)
        var buffers: [MockBuffer] = []
        if below(8) == 0 {
            let cut = 1 + below(15)
            buffers = [
                MockBuffer(header, UInt32(cut), isWritable: false),
                MockBuffer(header + UInt64(cut), UInt32(16 - cut), isWritable: false),
            ]
        } else {
            buffers = [MockBuffer(header, 16, isWritable: false)]
        }
        if type == VirtioBlk.RequestType.read {
            memory.fill(0xee, length, at: data)
            cut(data, length, isWritable: true, &buffers)
        } else if type == VirtioBlk.RequestType.write {
            noise.bytes(length).withUnsafeBytes { bytes in
                guard let base = bytes.baseAddress else { return }
                memcpy(model + start, base, length)
                memory.put(base, length, at: data)
            }
            cut(data, length, isWritable: false, &buffers)
        } else if type == VirtioBlk.RequestType.writeZeroes {
            memset(model + start, 0, length)
            memory.putHeader(type: UInt32(start / 512), sector: UInt64(length / 512), at: data)
            memory.store(UInt64(start / 512), at: data)
            memory.store(UInt32(length / 512), at: data + 8)
            memory.store(UInt32(below(2)), at: data + 12)
            buffers.append(MockBuffer(data, 16, isWritable: false))
        }
        buffers.append(MockBuffer(status, 1, isWritable: true))
        let queueDriver = queueDrivers[index]
        let indirect = queueDriver.isIndirectAgreed && buffers.count <= queueDriver.driver.tableEntries && below(4) > 0
        guard let id = queueDriver.driver.publish(buffers, indirect: indirect) else {
            fail("the ring has no room")
            return false
        }
        flights[index][id] = Flight(
            type: type, start: isFlush ? 0 : start, length: isFlush ? 0 : length, slot: slot, data: data,
            status: status)
        return true
    }

    /// Cuts a range into pieces.
    private func cut(_ data: UInt64, _ length: Int, isWritable: Bool, _ buffers: inout [MockBuffer]) {
        var at = 0
        let pieces = 1 + below(below(2) == 0 ? 3 : style.segments)
        for left in stride(from: pieces, through: 1, by: -1) where at < length {
            var part = left == 1 ? length - at : 1 + below(2 * (length - at) / left)
            part = min((part + style.alignment - 1) / style.alignment * style.alignment, length - at)
            buffers.append(MockBuffer(data + UInt64(at), UInt32(part), isWritable: isWritable))
            at += part
        }
    }

    // MARK: in

    /// Takes in all answers that are there; how many.
    @discardableResult func collect() -> Int {
        var count = 0
        for index in queueDrivers.indices {
            while let used = queueDrivers[index].driver.nextUsedBuffer() {
                count += 1
                take(used, index)
            }
        }
        completed += count
        return count
    }

    private func take(_ used: MockUsed, _ index: Int) {
        guard let flight = flights[index].removeValue(forKey: used.id) else {
            return fail("queue \(index) answers \(used.id), which is not in flight")
        }
        freeSlots[index].append(flight.slot)
        let status = memory.byte(flight.status)
        let isRead = flight.type == VirtioBlk.RequestType.read
        if status != RequestStatus.ok.rawValue {
            return fail("type \(flight.type) of \(flight.length) bytes at \(flight.start) has status \(status)")
        }
        if used.written != UInt32(isRead ? flight.length + 1 : 1) { fail("\(used.written) bytes written by \(flight)") }
        if isRead, !memory.holds(model + flight.start, flight.length, at: flight.data) {
            fail("a read of \(flight.length) bytes at \(flight.start) gives other bytes")
        }
    }

    /// Sleeps until there are answers.
    func wait(milliseconds: Int32 = 20_000) {
        var entries = queueDrivers.map { pollfd(fd: $0.queue.call.raw, events: Int16(POLLIN), revents: 0) }
        for queueDriver in queueDrivers where queueDriver.driver.enableSignals() { return }
        if poll(&entries, nfds_t(entries.count), milliseconds) == 0 {
            fail("stuck: \(inFlight) requests are in flight and no answer comes")
        }
        for queueDriver in queueDrivers { queueDriver.queue.call.take() }
    }

    /// Goes on until `count` more requests are answered; some stay in flight.
    func run(_ count: Int) {
        let end = completed + count
        while completed < end, failure == nil {
            fill()
            if collect() == 0 { wait() }
        }
    }

    /// Waits for all that is in flight.
    func drain() {
        for queueDriver in queueDrivers { queueDriver.kick() }
        while inFlight > 0, failure == nil { if collect() == 0 { wait() } }
        collect()
    }

    /// Whether a file holds what it should; where writes are in flight it may hold either.
    func matches(_ bytes: [UInt8], exceptInFlight: Bool = false) -> Bool {
        guard bytes.count == size else { return false }
        return bytes.withUnsafeBytes { file in
            guard let base = file.baseAddress else { return false }
            guard exceptInFlight else { return memcmp(base, model, size) == 0 }
            let copy = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 16)
            defer { copy.deallocate() }
            memcpy(copy, base, size)
            for flight in flights.flatMap(\.values) { memcpy(copy + flight.start, model + flight.start, flight.length) }
            return memcmp(copy, model, size) == 0
        }
    }
}
