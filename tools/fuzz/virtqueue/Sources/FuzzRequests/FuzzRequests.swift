// Virtio-blk requests in any cut and with any content. Whatever the door hands on must be a request that cannot be
// wrong, and whatever it answers must have an answer the driver can see.
import DiskTypes
import Glibc
import Virtqueue
import VirtqueueMock

/// With QBLK_CANARY set there is a bug to be found.
let canary = getenv("QBLK_CANARY").map { String(cString: $0) }
let memory = DriverMemory([(0x10000, 0x20000)])

func trap(_ what: StaticString) {
    write(2, what.utf8Start, what.utf8CodeUnitCount)
    abort()
}

/// The planted bug: one byte too far. Nothing here stops it; the rig must.
@inline(never) func plant(_ canary: String) {
    _ = "the canary\n".withCString { write(2, $0, strlen($0)) }
    let heap = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 16)
    let outside = canary == "heap" ? heap + 64 : memory.regions[0].host + Int(memory.regions[0].size)
    outside.storeBytes(of: outside.load(as: UInt8.self) &+ 1, as: UInt8.self)
    heap.deallocate()
}

func store<T: FixedWidthInteger>(_ value: T, in bytes: inout [UInt8], at offset: Int) {
    for i in 0..<T.bitWidth / 8 where offset + i < bytes.count {
        bytes[offset + i] = UInt8(truncatingIfNeeded: value >> (8 * i))
    }
}

/// Lays `bytes` out in pieces as `cuts` say, each of which is a buffer.
func cut(_ bytes: Int, at start: UInt64, _ cuts: [UInt8], isWritable: Bool) -> [MockBuffer] {
    var left = bytes
    var at = start
    var list: [MockBuffer] = []
    for piece in cuts where left > 0 {
        let part = min(Int(piece) * (piece > 128 ? 16 : 1), left)
        list.append(MockBuffer(at, UInt32(part), isWritable: isWritable))
        at += UInt64(part)
        left -= part
    }
    if left > 0 { list.append(MockBuffer(at, UInt32(left), isWritable: isWritable)) }
    return list
}

func check(_ request: BlockRequest, _ disk: VirtioBlkDisk, written: [UInt8]) {
    let size = disk.capacity * 512
    switch request.operation {
    case .flush:
        if request.length != 0 || request.iovecs != nil { trap("a flush with a range") }
        return
    case .read, .write:
        var sum: UInt64 = 0
        for i in 0..<Int(request.iovecCount) {
            guard let vector = request.iovecs?[i], let base = vector.iov_base else { return trap("no buffers") }
            let region = memory.regions[0]
            if base < region.host || base + vector.iov_len > region.host + Int(region.size) { trap("outside") }
            sum += UInt64(vector.iov_len)
        }
        if sum != request.length { trap("buffers and length differ") }
    case .discard, .writeZeroes:
        if request.iovecs != nil { trap("a range with buffers") }
    }
    if disk.isReadOnly, request.operation != .read { trap("a change of a read-only disk") }
    if request.length == 0 || request.length % 512 != 0 || request.length > UInt64(Int32.max) { trap("length") }
    if request.guest.bytes > size || request.length > size - request.guest.bytes { trap("outside the disk") }
    if request.guest.bytes % UInt64(disk.blockSize) != 0 { trap("misaligned") }
    if let canary, request.operation == .writeZeroes, request.mayUnmap { plant(canary) }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard count >= 32 else { return 0 }
    let input = Array(UnsafeBufferPointer(start: data, count: count))
    let flags = input[0]
    memory.reset()
    var features: RingFeatures = [.indirect]
    if flags & 1 != 0 { features.insert(.packed) }
    guard let guest = try? GuestMemory(memory.regions),
        let driver = MockDriver(memory: memory, size: 32, features: features, tableEntries: 64),
        var queue = try? Virtqueue(size: 32, features: features, memory: guest.snapshot),
        let places = try? RingAddresses(driver.addresses, size: 32, isPacked: flags & 1 != 0, in: guest.snapshot),
        (try? queue.start(places, base: flags & 1 != 0 ? Virtqueue.packedBase : 0)) != nil,
        let out = memory.allocate(8192, alignment: flags & 128 == 0 ? 16 : 1), let back = memory.allocate(8192),
        let disk = VirtioBlkDisk(
            capacityBytes: UInt64(input[1]) << 12, blockSize: flags & 2 != 0 ? 4096 : 512, isReadOnly: flags & 4 != 0)
    else { return 0 }
    // What a driver might write, mostly; the input itself behind the header, at times even as the header.
    var payload = Array(input[16...].prefix(4096))
    if flags & 16 == 0 {
        let types: [UInt32] = [0, 1, 4, 8, 11, 13, 0x8000_000B, 14]
        store(types[Int(input[14] & 7)], in: &payload, at: 0)
        store(UInt64(input[18]) | UInt64(input[19] & 3) << 8, in: &payload, at: 8)
        payload += Array(repeating: 0, count: max(0, 32 - payload.count))
        store(UInt64(input[20]) | UInt64(input[21] & 3) << 8, in: &payload, at: 16)
        store(UInt32(input[22]) | UInt32(input[23]) << 8, in: &payload, at: 24)
        store(UInt32(input[24] & 3), in: &payload, at: 28)
    }
    memory.write(payload, at: out)
    let lengths = [0, 16, 512, 4096, 1024, 15, 17, Int(input[3]) * 8]
    let readable = min(8192, (flags & 32 == 0 ? 16 : Int(input[3] & 31)) + lengths[Int(input[2] & 7)])
    let writable = min(8192, (flags & 64 == 0 ? 1 : Int(input[5])) + lengths[Int(input[4] & 7)])
    let buffers =
        cut(readable, at: out, Array(input[6..<10]), isWritable: false)
        + cut(writable, at: back, Array(input[10..<14]), isWritable: true)
    guard driver.publish(buffers, indirect: flags & 8 != 0) != nil, let chain = queue.pop() else { return 0 }
    let total = writable
    switch VirtioBlk.decode(chain, disk) {
    case .request(let request):
        check(request, disk, written: payload)
        queue.push(chain, written: VirtioBlk.finish(chain, .ok))
    case .answered(let written):
        if written > UInt32(total) { trap("more written than there was room for") }
        if total > 0, memory.read(1, at: back + UInt64(total) - 1)[0] > 2 { trap("no status") }
        queue.push(chain, written: written)
    }
    _ = queue.publish()
    if driver.collect().count != 1 { trap("not answered once") }
    return 0
}
