// Guests' memory is a file, which decides how bytes move; here is an engine whose callers' memory is.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO

@testable import BlockEngine

/// An engine that sees pages, and one request at a time.
final class GuestHarness {
    let chain: ImageChain
    let harness: EngineHarness
    let memory: SharedMemory

    init(
        _ chain: ImageChain, maxIovecs: Int = 1, seesPages: Bool = true, helper: CopyHelper? = nil
    ) throws {
        self.chain = chain
        harness = try EngineHarness(chain, maxIovecs: maxIovecs, seesPages: seesPages, helper: helper)
        memory = try SharedMemory("qblk-test", count: 4 << 20)
        harness.engine.setGuestMemoryFiles([
            GuestMemoryFile(start: memory.pointer, count: memory.count, fd: memory.fd, offset: 0)
        ])
    }

    var mapped: UInt64 { harness.engine.statistics.mapped }
    var shared: UInt64 { harness.engine.statistics.shared }

    /// The ranges are at the given places of the memory.
    func run(_ operation: BlockRequest.Operation, _ guest: Int, _ ranges: [Range<Int>]) -> Int32 {
        var request = BlockRequest(
            operation, slot: 0, guest: GuestOffset(UInt64(guest)), length: UInt64(ranges.reduce(0) { $0 + $1.count }))
        let list = ranges.map { iovec(iov_base: memory.pointer + $0.lowerBound, iov_len: $0.count) }
        request.iovecs = harness.kept(list, slot: 0)
        request.iovecCount = Int32(list.count)
        harness.engine.submit(request)
        return harness.wait()?.error ?? -1
    }

    func bytes(_ ranges: [Range<Int>]) -> [UInt8] {
        ranges.flatMap { Array(UnsafeRawBufferPointer(start: memory.pointer + $0.lowerBound, count: $0.count)) }
    }

    func read(_ guest: Int, _ count: Int) -> (error: Int32, bytes: [UInt8]) {
        memset(memory.pointer, 0xee, count)
        let error = run(.read, guest, [0..<count])
        return (error, bytes([0..<count]))
    }

    func write(_ guest: Int, _ bytes: [UInt8], skew: Int = 0) -> Int32 {
        UnsafeMutableRawBufferPointer(start: memory.pointer + skew, count: bytes.count).copyBytes(from: bytes)
        return run(.write, guest, [skew..<skew + bytes.count])
    }
}
