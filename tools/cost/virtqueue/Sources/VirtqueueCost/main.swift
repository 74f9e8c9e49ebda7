// Instructions per request on the device's side, which do not depend on the machine's load.
// Callgrind counts `devicePass` and `requestPass` only, in a run of N and one of 2N passes; `cost` beside the package
// does that.
import DiskTypes
import Virtqueue
import VirtqueueMock

enum CostError: Error { case usage, setup }

/// What a worker does with a batch, apart from the work itself.
@inline(never) func devicePass(_ queue: inout Virtqueue) -> UInt64 {
    var sum: UInt64 = 0
    while let chain = queue.pop() {
        sum &+= chain.pointee.writableBytes
        queue.push(chain, written: 4097)
    }
    return queue.publish() ? sum &+ 1 : sum
}

/// The same with the requests decoded and answered.
@inline(never) func requestPass(_ queue: inout Virtqueue, _ disk: VirtioBlkDisk) -> UInt64 {
    var sum: UInt64 = 0
    while let chain = queue.pop() {
        switch VirtioBlk.decode(chain, disk) {
        case .request(let request):
            sum &+= request.length
            queue.push(chain, written: VirtioBlk.finish(chain, .ok))
        case .answered(let written): queue.push(chain, written: written)
        }
    }
    return queue.publish() ? sum &+ 1 : sum
}

/// `rounds` batches of 32 requests of three descriptors through driver, pop, (decode,) push, publish.
func run(isPacked: Bool, indirect: Bool, part: String, rounds: Int) throws {
    var sum: UInt64 = 0
    let memory = DriverMemory([(0x10000, 1 << 20)])
    let guest = try GuestMemory(memory.regions)
    var features: RingFeatures = [.indirect, .eventIndex]
    if isPacked { features.insert(.packed) }
    guard let driver = MockDriver(memory: memory, size: 128, features: features),
        let header = memory.allocate(16), let data = memory.allocate(4096), let status = memory.allocate(1),
        let disk = VirtioBlkDisk(capacityBytes: 1 << 20)
    else { throw CostError.setup }
    var queue = try Virtqueue(size: 128, features: features, memory: guest.snapshot)
    let places = try RingAddresses(driver.addresses, size: 128, isPacked: isPacked, in: guest.snapshot)
    try queue.start(places, base: isPacked ? Virtqueue.packedBase : 0)
    let request = [
        MockBuffer(header, 16, isWritable: false), MockBuffer(data, 4096, isWritable: true),
        MockBuffer(status, 1, isWritable: true),
    ]
    request.withUnsafeBufferPointer { request in
        for _ in 0..<rounds {
            for _ in 0..<32 { driver.publish(request, indirect: indirect) }
            sum &+= part == "request" ? requestPass(&queue, disk) : devicePass(&queue)
            while driver.nextUsedBuffer() != nil {}
        }
    }
    print(sum)
}

func main() throws {
    let words = CommandLine.arguments
    guard words.count == 5, let rounds = Int(words[4]) else { throw CostError.usage }
    try run(isPacked: words[1] == "packed", indirect: words[2] == "indirect", part: words[3], rounds: rounds)
}
try main()
