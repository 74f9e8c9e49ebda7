// A guest that does its worst, guided by coverage. The input is a program for both sides of a ring: the driver
// publishes good chains and bad ones and scribbles over shared memory, the device pops, pushes, loses its process and
// starts again. After every step: nothing handed out lies outside the guest's memory.
import Glibc
import Virtqueue
import VirtqueueMock

/// With QBLK_CANARY set there is a bug to be found: a rig that does not find it finds nothing.
let canary = getenv("QBLK_CANARY").map { String(cString: $0) }

let memory = DriverMemory([(0x10000, 0x10000), (0x20000, 0x4000), (0x1_0000_0000, 0x4000)])
let recordBytes = 4096
nonisolated(unsafe) let record = UnsafeMutableRawPointer.allocate(byteCount: recordBytes, alignment: 64)
nonisolated(unsafe) let log = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)

/// Takes the input apart; past its end everything is 0.
struct Program {
    let bytes: UnsafeBufferPointer<UInt8>
    var at = 0
    var isDone: Bool { at >= bytes.count }
    mutating func byte() -> UInt8 {
        defer { at += 1 }
        return at < bytes.count ? bytes[at] : 0
    }
    mutating func word() -> UInt16 { UInt16(byte()) | UInt16(byte()) << 8 }
    /// Addresses that are inside, at borders, outside, and anything.
    mutating func address() -> UInt64 {
        let kind = byte()
        let low = UInt64(word())
        switch kind & 7 {
        case 0...2: return 0x10000 + low
        case 3: return 0x20000 + low & 0x3FFF
        case 4: return 0x20000 - 64 + low & 127
        case 5: return 0x1_0000_0000 + low & 0x4FFF
        case 6: return UInt64.max - low
        default: return low << UInt64(byte() & 63)
        }
    }
    mutating func length() -> UInt32 {
        switch byte() & 7 {
        case 0...4: UInt32(byte())
        case 5: UInt32(byte()) * 16
        case 6: UInt32(word())
        default: UInt32(word()) << 16 | UInt32(word())
        }
    }
}

func trap(_ what: StaticString) {
    write(2, what.utf8Start, what.utf8CodeUnitCount)
    abort()
}

/// The planted bug: one byte too far. Nothing here stops it; the rig must.
@inline(never) func plant(_ canary: String) {
    _ = "the canary\n".withCString { write(2, $0, strlen($0)) }
    let heap = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 16)
    let outside = canary == "heap" ? heap + 64 : memory.regions[2].host + Int(memory.regions[2].size)
    outside.storeBytes(of: outside.load(as: UInt8.self) &+ 1, as: UInt8.self)
    heap.deallocate()
}

/// One run of a program.
final class Machine {
    var program: Program
    let guest: GuestMemory
    let driver: MockDriver
    var queue: Virtqueue
    let features: RingFeatures
    let isRecorded: Bool
    var held: [UnsafeMutablePointer<DescriptorChain>] = []

    init?(_ input: Program) {
        program = input
        let flags = program.byte()
        var features: RingFeatures = []
        if flags & 1 != 0 { features.insert(.packed) }
        if flags & 2 == 0 { features.insert(.indirect) }
        if flags & 4 != 0 { features.insert(.eventIndex) }
        if flags & 8 != 0 { features.insert(.notifyOnEmpty) }
        self.features = features
        isRecorded = flags & 16 != 0
        let size = flags & 1 != 0 ? 1 + Int(flags >> 5) * 2 : 1 << Int(flags >> 5 & 3)
        memory.reset()
        record.initializeMemory(as: UInt8.self, repeating: 0, count: recordBytes)
        guard let guest = try? GuestMemory(memory.regions),
            let driver = MockDriver(memory: memory, size: size, features: features, tableEntries: 16),
            let queue = try? Virtqueue(size: size, features: features, memory: guest.snapshot)
        else { return nil }
        self.guest = guest
        self.driver = driver
        self.queue = queue
        guard start(base: features.contains(.packed) ? Virtqueue.packedBase : 0) else { return nil }
    }

    func start(base: UInt32) -> Bool {
        do {
            let places = try RingAddresses(
                driver.addresses, size: driver.size, isPacked: driver.isPacked, in: guest.snapshot)
            let inflight = isRecorded ? InflightMemory(base: record, bytes: recordBytes) : nil
            try queue.start(places, base: base, inflight: inflight, usedGuestAddress: GuestAddress(driver.deviceArea))
            return true
        } catch { return false }
    }

    func run() {
        var steps = 0
        while !program.isDone, steps < 512 {
            steps += 1
            step(program.byte() & 31)
        }
        drain()
    }

    func step(_ what: UInt8) {
        switch what {
        case 0...5: publish()
        case 6...9: publishRaw()
        case 10: driver.publishHead(program.word())
        case 11: if !driver.isPacked { driver.claimAvailIndex(program.word()) }
        case 12...13: memory.store(program.byte(), at: program.address())
        case 14: memory.store(program.word(), at: driver.descriptorArea + UInt64(program.word()))
        case 15...20: if let chain = queue.pop() { take(chain) }
        case 21...23: give()
        case 24...25: _ = queue.publish()
        case 26: _ = driver.collect1000()
        case 27: if program.byte() & 1 == 0 { queue.disableKicks() } else { _ = queue.enableKicks() }
        case 28: swapMemory()
        case 29: queue.setLog(program.byte() & 1 == 0 ? .off : DirtyLog(bits: log, bytes: 64), ring: true)
        case 30: restart()
        default: record.storeBytes(of: program.byte(), toByteOffset: Int(program.word()) % recordBytes, as: UInt8.self)
        }
    }

    func publish() {
        let count = Int(program.byte() & 7) + 1
        let isIndirect = program.byte() & 1 != 0
        let buffers = (0..<count).map { i in
            MockBuffer(program.address(), program.length(), isWritable: i * 2 >= count)
        }
        driver.publish(buffers, indirect: isIndirect)
    }

    func publishRaw() {
        let count = Int(program.byte() & 3) + 1
        let list = (0..<count).map { _ in
            (
                address: program.address(), length: program.length(), flags: UInt16(program.byte() & 7),
                next: UInt16(program.byte() & 31)
            )
        }
        if program.byte() & 1 != 0 {
            let table = program.address()
            driver.writeTable(at: table, list)
            driver.publishRaw([(table, UInt32(count * 16) ^ UInt32(program.byte() >> 4), 4, 0)])
        } else {
            driver.publishRaw(Array(list.prefix(driver.size)), first: Int(program.byte()) % driver.size)
        }
    }

    /// Everything that comes out must lie in memory, and hold together.
    func take(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        let one = chain.pointee
        var sums: (UInt64, UInt64) = (0, 0)
        if one.readableCount < 0 || one.writableCount < 0 || one.readableCount + one.writableCount > 1026 {
            trap("a chain of impossible length")
        }
        for i in 0..<Int(one.readableCount + one.writableCount) {
            let vector = one.iovecs[i]
            guard let base = vector.iov_base, vector.iov_len > 0, inside(base, vector.iov_len) else {
                return trap("a buffer outside the guest's memory")
            }
            if i < Int(one.readableCount) { sums.0 += UInt64(vector.iov_len) } else { sums.1 += UInt64(vector.iov_len) }
        }
        if one.readableBytes != sums.0 || one.writableBytes != sums.1 { trap("the totals are wrong") }
        if let last = one.lastWritable, !inside(UnsafeMutableRawPointer(last), 1) { trap("a status outside") }
        if one.fault == .none, (one.lastWritable != nil) != (one.writableCount > 0) { trap("the status is lost") }
        if let canary, one.readableCount > 1, one.writableCount > 1, inside(memory.regions[2], one) { plant(canary) }
        if held.contains(chain) { trap("a slot was given out twice") }
        held.append(chain)
        if held.count > driver.size { trap("more requests than the ring has entries") }
        one.lastWritable?.pointee = 1
    }

    func inside(_ base: UnsafeMutableRawPointer, _ count: Int) -> Bool {
        memory.regions.contains { base >= $0.host && base + count <= $0.host + Int($0.size) }
    }
    func inside(_ region: GuestRegion, _ chain: DescriptorChain) -> Bool {
        guard let base = chain.iovecs[Int(chain.readableCount)].iov_base else { return false }
        return base >= region.host && base < region.host + Int(region.size)
    }

    func give() {
        guard !held.isEmpty else { return }
        queue.push(held.remove(at: Int(program.byte()) % held.count), written: UInt32(program.word()))
    }

    func swapMemory() {
        let regions = Array(memory.regions.prefix(1 + Int(program.byte() % 3)))
        guard let next = try? guest.replace(regions) else { return trap("regions refused") }
        queue.adopt(next, nil)
        // What stays in flight keeps its tables; the rig keeps all of them to the end.
    }

    /// The process dies, or the queue is stopped in good order.
    func restart() {
        if program.byte() & 1 == 0 { drain() }
        let base = queue.stop()
        held = []
        guard let next = try? Virtqueue(size: driver.size, features: features, memory: guest.snapshot) else {
            return trap("no queue")
        }
        queue = next
        if !start(base: base) {
            record.initializeMemory(as: UInt8.self, repeating: 0, count: recordBytes)
            if !start(base: base) { trap("a queue does not start again") }
        }
    }

    func drain() {
        for chain in held { queue.push(chain, written: 0) }
        held = []
        _ = queue.publish()
        if queue.inFlight != 0 { trap("requests are left in flight") }
        if !queue.isSettled { trap("an old snapshot is held for ever") }
    }
}

extension MockDriver {
    /// `collect`, but a device or a scribbler cannot keep it for ever.
    func collect1000() -> Int {
        var count = 0
        while count < 1000, nextUsedBuffer() != nil { count += 1 }
        return count
    }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    Machine(Program(bytes: UnsafeBufferPointer(start: data, count: count)))?.run()
    return 0
}
