// The instructions of one request, from the virtqueue to the ring and back, on workers that one
// thread drives. Run under callgrind by tools/cost/worker/cost, which takes the difference of two numbers of rounds.
// Arguments: IMAGE qcow2|raw read|write split|packed WORKERS ROUNDS
import DiskTypes
import Glibc
import ImageChain
import SystemPackage
import VhostUserBlk
import Virtqueue
import VirtqueueMock

/// One worker and the driver of its queue.
final class Side {
    static let depth = 128
    let worker: SingleStepWorker
    let memory = DriverMemory([(guest: 0x1_0000, bytes: 16 << 20)])
    let driver: MockDriver
    let guest: GuestMemory
    var headers: [UInt64] = []
    var data: [UInt64] = []
    var status: [UInt64] = []

    init(_ chain: ImageChain, features: RingFeatures, isWrite: Bool) throws {
        guard let driver = MockDriver(memory: memory, size: 256, features: features) else { throw Trouble.memory }
        self.driver = driver
        guest = try GuestMemory(memory.regions)
        let places = try RingAddresses(
            driver.addresses, size: 256, isPacked: features.contains(.packed), in: guest.snapshot)
        worker = try SingleStepWorker(
            chain, memory: guest.snapshot, places: places, size: 256, features: features)
        for _ in 0..<Self.depth {
            guard let header = memory.allocate(16), let page = memory.allocate(4096, alignment: 4096),
                let byte = memory.allocate(1)
            else { throw Trouble.memory }
            memory.store(isWrite ? VirtioBlk.RequestType.write : VirtioBlk.RequestType.read, at: header)
            headers.append(header)
            data.append(page)
            status.append(byte)
        }
    }

    /// A batch of requests all over the disk, until all are answered.
    func round(_ random: inout UInt64, blocks: UInt64, isWrite: Bool) throws {
        try round(isWrite: isWrite) { _ in
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (random >> 33) % blocks
        }
    }

    /// Every block once: from there on the worker knows which pages are in memory.
    func touchAll(blocks: UInt64, isWrite: Bool) throws {
        for first in stride(from: 0, to: blocks, by: Self.depth) {
            try round(isWrite: isWrite) { min(first + UInt64($0), blocks - 1) }
        }
    }

    private func round(isWrite: Bool, _ block: (Int) -> UInt64) throws {
        for i in 0..<Self.depth {
            memory.store(block(i) * 8, at: headers[i] + 8)
            let list = [
                MockBuffer(headers[i], 16, isWritable: false), MockBuffer(data[i], 4096, isWritable: !isWrite),
                MockBuffer(status[i], 1, isWritable: true),
            ]
            guard driver.publish(list, indirect: true) != nil else { throw Trouble.memory }
        }
        var answered = 0
        while answered < Self.depth {
            worker.runOnce()
            worker.handIn()
            answered += driver.collect().count
        }
    }
}

enum Trouble: Error { case arguments, memory }

@main enum WorkerCost {
    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 7, let format = ImageFormat(rawValue: arguments[2]), let count = Int(arguments[5]),
            let rounds = Int(arguments[6])
        else { throw Trouble.arguments }
        let isWrite = arguments[3] == "write"
        var options = OpenOptions()
        options.format = format
        options.writable = true
        let chain = try ImageChain.open(path: FilePath(arguments[1]), options: options)
        var features: RingFeatures = [.indirect, .eventIndex]
        if arguments[4] == "packed" { features.insert(.packed) }
        let sides = try (0..<count).map { _ in try Side(chain, features: features, isWrite: isWrite) }
        try sides.first?.touchAll(blocks: chain.size / 4096, isWrite: isWrite)
        var random: UInt64 = 1
        for _ in 0..<rounds {
            for side in sides { try side.round(&random, blocks: chain.size / 4096, isWrite: isWrite) }
        }
    }
}
