// How many instructions a request costs, and how many requests a second one thread carries, with nothing around the
// engine but a loop that keeps it full. Instructions: run a `strip -g` copy under callgrind with two counts and
// divide the difference (a warm-up as long as the run is part of both).
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import LinuxIO

/// engine-bench IMAGE COUNT [SIZE] [DEPTH] [direct]: random aligned reads; prints requests a second.
@main enum Main {
    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 3, let count = Int(arguments[2]) else {
            print("usage: engine-bench IMAGE COUNT [SIZE] [DEPTH] [direct]")
            exit(2)
        }
        let size = arguments.count > 3 ? Int(arguments[3]) ?? 4096 : 4096
        let depth = arguments.count > 4 ? Int(arguments[4]) ?? 128 : 128
        var options = OpenOptions()
        options.direct = arguments.contains("direct")
        let chain = try ImageChain.open(path: "\(arguments[1])", options: options)
        let bench = try Bench(chain, size: size, depth: depth)
        // Tables into the cache, pages into memory; not part of the time.
        bench.run(min(count, Int(chain.size) / size), random: false)
        let start = now()
        let drains = bench.run(count, random: true)
        let seconds = Double(now() - start) / 1e9
        print("\(Int(Double(count) / seconds)) requests/s, \(drains) drains, \(bench.engine.statistics)")
    }

    static func now() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// A door that wants random blocks as fast as it can get them.
final class Bench {
    let ring: Ring
    let engine: RequestEngine
    let memory: UnsafeMutableRawPointer
    let size: Int
    let depth: Int
    let blocks: UInt64

    init(_ chain: ImageChain, size: Int, depth: Int) throws {
        ring = try Ring(entries: UInt32(depth))
        engine = try RequestEngine(chain: chain, ring: ring, slots: depth)
        memory = .allocate(byteCount: size * depth, alignment: 4096)
        self.size = size
        self.depth = depth
        blocks = chain.size / UInt64(size)
    }

    @discardableResult func run(_ count: Int, random: Bool) -> Int {
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        var started = 0
        var finished = 0
        var drains = 0
        let engine = engine
        func start(_ slot: Int) {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            let block = random ? state % blocks : UInt64(started) % blocks
            started &+= 1
            engine.submitRead(
                slot: slot, guest: GuestOffset(block &* UInt64(size)), buffer: memory + slot &* size, length: size)
        }
        for slot in 0..<min(depth, count) { start(slot) }
        while finished < count {
            while let done = engine.nextFinished() {
                finished &+= 1
                if done.error != 0 { exit(1) }
                if started < count { start(Int(done.slot)) }
            }
            // Only what is not finished now is in flight: never wait for what is done already.
            if finished < count { ring.submitAndWait(1) }
            ring.drain { userData, result in
                if RequestEngine.owns(userData) { engine.complete(userData, result) }
            }
            drains &+= 1
        }
        return drains
    }
}
