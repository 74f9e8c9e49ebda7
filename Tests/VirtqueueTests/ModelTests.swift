// Random chains, most of them slightly wrong, against a model that is too slow and too simple to be wrong: it looks
// at every byte of a buffer by itself.
import TestKit
import Testing
import Virtqueue
import VirtqueueMock

struct ModelTests {
    struct Expected: Equatable {
        var fault: ChainFault = .none
        /// Guest addresses of every byte, while there is no fault.
        var readable: [UInt64] = []
        var writable: [UInt64] = []
        /// Guest address of the status, nil when it cannot be reached.
        var last: UInt64?
    }

    static func expect(_ buffers: [MockBuffer], _ memory: DriverMemory) -> Expected {
        var result = Expected()
        for buffer in buffers where buffer.length > 0 {
            let bytes = (0..<UInt64(buffer.length)).map { buffer.address &+ $0 }
            // An address that wraps is outside, even where 0 is inside.
            let isInside = bytes.allSatisfy { memory.host($0) != nil && $0 >= buffer.address }
            if result.fault == .none {
                if !buffer.isWritable, !result.writable.isEmpty {
                    result.fault = .readableAfterWritable
                } else if !isInside {
                    result.fault = .addressOutsideMemory
                }
            }
            if buffer.isWritable {
                let end = bytes.last.flatMap { $0 >= buffer.address && memory.host($0) != nil ? $0 : nil }
                result.last = end
            }
            guard result.fault == .none else { continue }
            if buffer.isWritable { result.writable += bytes } else { result.readable += bytes }
        }
        return result
    }

    private func buffer(_ random: inout SeededRandom, isWritable: Bool) -> MockBuffer {
        let address: UInt64 =
            switch Int.random(in: 0..<20, using: &random) {
            case 0: QueueHarness.middle - UInt64.random(in: 0...300, using: &random)
            case 1: QueueHarness.middle + 0x10000 - UInt64.random(in: 0...300, using: &random)
            case 2: QueueHarness.far - UInt64.random(in: 0...300, using: &random)
            case 3: UInt64.max - UInt64.random(in: 0...300, using: &random)
            case 4: UInt64.random(in: 0...UInt64.max, using: &random)
            default: QueueHarness.low + 0x10_0000 + UInt64.random(in: 0...0x1000, using: &random)
            }
        return MockBuffer(address, UInt32.random(in: 0...256, using: &random), isWritable: isWritable)
    }

    @Test(arguments: Kind.both, [1, 2, 3] as [UInt64])
    func randomChainsComeOutAsTheModelSays(_ kind: Kind, seed: UInt64) throws {
        let harness = try QueueHarness(kind, size: 32, tableEntries: 32)
        var random = SeededRandom(seed)
        for round in 0..<2000 {
            let readable = Int.random(in: 0...6, using: &random)
            var buffers = (0..<readable).map { _ in buffer(&random, isWritable: false) }
            buffers += (0..<Int.random(in: 0...6, using: &random)).map { _ in buffer(&random, isWritable: true) }
            if buffers.isEmpty { continue }
            if Int.random(in: 0..<20, using: &random) == 0 { buffers.shuffle(using: &random) }
            #expect(harness.driver.publish(buffers, indirect: Bool.random(using: &random)) != nil)
            let chain = try #require(harness.pop())
            let pieces = contents(chain.pointee, harness.memory)
            var seen = Expected(fault: chain.pointee.fault)
            for piece in pieces where seen.fault == .none {
                let bytes = (0..<UInt64(piece.length)).map { piece.address + $0 }
                if piece.isWritable { seen.writable += bytes } else { seen.readable += bytes }
            }
            seen.last = chain.pointee.lastWritable.flatMap { last in
                harness.memory.regions.lazy.compactMap { region -> UInt64? in
                    let offset = UInt(bitPattern: last) &- UInt(bitPattern: region.host)
                    return offset < region.size ? region.guest.raw + UInt64(offset) : nil
                }.first
            }
            var expected = Self.expect(buffers, harness.memory)
            if expected.fault != .none {
                expected.readable = []
                expected.writable = []
            }
            #expect(seen == expected, "seed \(seed), round \(round): \(buffers)")
            harness.push(chain, written: 0)
            _ = harness.publish()
            #expect(harness.driver.collect().count == 1)
        }
    }
}
