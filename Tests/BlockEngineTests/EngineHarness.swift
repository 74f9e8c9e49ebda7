// A door for tests. It owns ring and engine, keeps many requests in flight, and can lie to the
// engine about what the kernel answered.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import TestKit

/// Drives an engine as a door would.
final class EngineHarness {
    let ring: Ring
    let engine: RequestEngine
    /// Changes completions on their way to the engine. The read itself has happened.
    var alterResult: (UInt64, Int32) -> Int32 = { _, result in result }
    /// Lists of memory stay the engine's until the slot comes back.
    private let lists: UnsafeMutablePointer<iovec>
    private static let listLimit = 64

    init(
        _ chain: ImageChain, slots: Int = 16, entries: UInt32 = 64, maxIovecs: Int = 1,
        decodedCacheBytes: Int = 8 << 20, number: UInt16 = 0, seesPages: Bool = false, helper: CopyHelper? = nil
    ) throws {
        lists = .allocate(capacity: slots * Self.listLimit)
        ring = try Ring(entries: entries)
        engine = try RequestEngine(
            chain: chain, ring: ring, slots: slots, maxIovecs: maxIovecs, decodedCacheBytes: decodedCacheBytes,
            number: number, seesPages: seesPages, helper: helper)
    }

    deinit { lists.deallocate() }

    /// A copy of a list that lives as long as the request of the slot.
    func kept(_ list: [iovec], slot: Int) -> UnsafePointer<iovec> {
        let place = lists + slot * Self.listLimit
        for (i, range) in list.prefix(Self.listLimit).enumerated() { place[i] = range }
        return UnsafePointer(place)
    }

    /// The next finished request. Nil when the engine owes one and gives none for a minute: it is stuck. A process that was
    /// stopped for that long has looked too seldom to say so.
    func wait() -> RequestEngine.Finished? {
        let end = ContinuousClock.now + .seconds(60)
        var looks = 0
        while ContinuousClock.now < end || looks < 200_000 {
            looks += 1
            engine.submit()
            if let finished = engine.nextFinished() { return finished }
            if ring.submitAndWait(0) < 0 { return nil }
            let drained = ring.drain { userData, result in
                if RequestEngine.owns(userData) { engine.complete(userData, alterResult(userData, result)) }
            }
            if drained == 0 { usleep(20) }
        }
        return nil
    }

    /// One request, alone: its error and what it read.
    func read(_ guest: Int, _ count: Int) -> (error: Int32, bytes: [UInt8], damage: MapDamage?) {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1), alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 0xee, count)
        engine.submitRead(slot: 0, guest: GuestOffset(UInt64(guest)), buffer: memory, length: count)
        guard let finished = wait() else { return (-1, [], nil) }
        return (
            finished.error, Array(UnsafeRawBufferPointer(start: memory, count: count)), finished.damage
        )
    }
}

/// A read and where its bytes go.
struct Planned {
    var guest: Int
    var length: Int
    /// Sizes of the ranges of memory, and by how much each misses a page boundary.
    var parts: [(skew: Int, length: Int)]
}

extension EngineHarness {
    /// Runs `count` random reads, as many at a time as there are slots, and says what went wrong.
    func compare(
        with truth: [UInt8], count: Int, seed: UInt64, slots: Int = 16, _ plan: (inout SeededRandom) -> Planned
    ) -> String? {
        var random = SeededRandom(seed)
        var plans = [Planned?](repeating: nil, count: slots)
        let room = 4 << 20
        let memory = UnsafeMutableRawPointer.allocate(byteCount: slots * room, alignment: 4096)
        defer { memory.deallocate() }
        var started = 0
        var done = 0
        while done < count {
            for slot in 0..<slots where plans[slot] == nil && started < count {
                let planned = plan(&random)
                plans[slot] = planned
                started += 1
                submit(planned, slot: slot, memory + slot * room)
            }
            guard let finished = wait() else { return "stuck after \(done) of \(count) (seed \(seed))" }
            let slot = Int(finished.slot)
            guard let planned = plans[slot] else { return "slot \(slot) finished twice (seed \(seed))" }
            plans[slot] = nil
            done += 1
            if finished.error != 0 { return "\(planned) fails with \(finished.error) (seed \(seed))" }
            if !matches(planned, memory + slot * room, truth) { return "\(planned) reads other bytes (seed \(seed))" }
        }
        return nil
    }

    private func ranges(_ planned: Planned, _ memory: UnsafeMutableRawPointer) -> [iovec] {
        var at = 0
        return planned.parts.map { part in
            let range = iovec(iov_base: memory + at + part.skew, iov_len: part.length)
            at = (at + part.skew + part.length + 4095 + 64) & ~4095
            return range
        }
    }

    private func submit(_ planned: Planned, slot: Int, _ memory: UnsafeMutableRawPointer) {
        let list = ranges(planned, memory)
        let guest = GuestOffset(UInt64(planned.guest))
        for range in list { memset(range.iov_base, 0xee, range.iov_len + 16) }
        if list.count == 1, let base = list[0].iov_base {
            engine.submitRead(slot: slot, guest: guest, buffer: base, length: planned.length)
        } else {
            engine.submitRead(
                slot: slot, guest: guest, iovecs: kept(list, slot: slot), count: list.count, length: planned.length)
        }
    }

    /// Whether the bytes are right and nothing was written behind any range.
    private func matches(_ planned: Planned, _ memory: UnsafeMutableRawPointer, _ truth: [UInt8]) -> Bool {
        var at = planned.guest
        for range in ranges(planned, memory) {
            guard let base = range.iov_base else { return false }
            let same = truth.withUnsafeBytes { all in
                guard let start = all.baseAddress else { return false }
                return memcmp(start + at, base, range.iov_len) == 0
            }
            let fence = UnsafeRawBufferPointer(start: base + range.iov_len, count: 16)
            guard same, fence.allSatisfy({ $0 == 0xee }) else { return false }
            at += range.iov_len
        }
        return true
    }
}

/// Reads of any place, size and alignment.
func anyRead(_ size: Int, largest: Int = 300_000, iovecs: Int = 1) -> (inout SeededRandom) -> Planned {
    { random in
        let guest = random.below(size)
        let length = min(1 + random.below(1 << (1 + random.below(18))), largest, size - guest)
        guard iovecs > 1, random.below(4) != 0 else {
            return Planned(guest: guest, length: length, parts: [(random.below(2) * random.below(513), length)])
        }
        var parts: [(skew: Int, length: Int)] = []
        var left = length
        while left > 0 {
            let part = parts.count == iovecs - 1 ? left : min(left, 1 + random.below(length))
            parts.append((random.below(2) * random.below(513), part))
            left -= part
        }
        return Planned(guest: guest, length: length, parts: parts)
    }
}

/// Reads of whole blocks into whole blocks: what a kernel asks for.
func blockRead(_ size: Int, block: Int = 4096, blocks: Int = 64) -> (inout SeededRandom) -> Planned {
    { random in
        let guest = random.below(size / block) * block
        let length = min((1 + random.below(blocks)) * block, size - guest)
        return Planned(guest: guest, length: length, parts: [(0, length)])
    }
}
