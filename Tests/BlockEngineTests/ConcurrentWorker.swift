// One of the threads that change an image at once: its own ring and engine, many requests in flight,
// and its own idea of what the sectors hold that are its own.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import TestKit

/// Confined to its thread between the start and the join.
final class ConcurrentWorker: @unchecked Sendable {
    static let slots = 12

    private let burst: Burst
    private let chain: ImageChain
    private let index: UInt8
    private var random: SeededRandom
    /// As guests have theirs: behind a descriptor.
    private let shared: SharedMemory
    private let memory: UnsafeMutableRawPointer
    /// With room for gaps between the ranges of a request.
    private let stride: Int
    private var pending: [Pending?]
    private var count = 0
    /// What the sectors hold; only its own count.
    private(set) var model: SectorModel
    /// What went wrong first.
    private(set) var trouble: String?
    /// Transfers by way of the mapping.
    private(set) var mapped: UInt64 = 0
    /// Transfers of two threads.
    private(set) var together: UInt64 = 0

    private struct Pending {
        let operation: BlockRequest.Operation
        let sectors: Range<Int>
        let count: Int
        var ranges: [iovec] = []
    }

    init(_ burst: Burst, _ chain: ImageChain, index: Int) throws {
        (self.burst, self.chain, self.index) = (burst, chain, UInt8(index))
        random = SeededRandom(burst.seed &+ UInt64(index) &* 7919 &+ 1)
        stride = burst.room + 16 * 8192
        shared = try SharedMemory("qblk-test", count: Self.slots * stride)
        memory = shared.pointer
        pending = Array(repeating: nil, count: Self.slots)
        model = burst.before
    }
    /// On the worker's own thread.
    func run() {
        do {
            // Beside each other: those that use the pages of the page cache, and those that do not.
            let seesPages = (Int(index) + burst.number) & 1 == 0
            let helper = CopyHelper(maxIovecs: 16, looks: 20_000, least: 16 << 10, chunkBytes: 4 << 10)
            let harness = try EngineHarness(
                chain, slots: Self.slots, entries: 128, maxIovecs: 16, seesPages: seesPages, helper: helper)
            harness.engine.setGuestMemoryFiles([
                GuestMemoryFile(start: memory, count: shared.count, fd: shared.fd, offset: 0)
            ])
            trouble = try work(harness)
            mapped = harness.engine.statistics.mapped
            together = harness.engine.statistics.shared
        } catch {
            trouble = "\(error)"
        }
        if let trouble { self.trouble = "thread \(index), after \(count) operations: \(trouble)" }
    }

    private func work(_ harness: EngineHarness) throws -> String? {
        var running = 0
        while count < burst.operations || running > 0 {
            for slot in 0..<Self.slots where pending[slot] == nil && count < burst.operations {
                guard begin(harness, slot) else { break }
                running += 1
            }
            guard let finished = harness.wait() else { return "stuck" }
            running -= 1
            if let wrong = end(finished) { return wrong }
        }
        return nil
    }

    // MARK: beginning

    /// False: it would touch what another request is about. The next try is about something else.
    private func begin(_ harness: EngineHarness, _ slot: Int) -> Bool {
        let kind = random.below(32)
        count += 1
        if kind == 0 {
            pending[slot] = Pending(operation: .flush, sectors: 0..<0, count: count)
            harness.engine.submit(BlockRequest(.flush, slot: UInt32(slot)))
            return true
        }
        let operation: BlockRequest.Operation =
            switch kind {
            case 1..<10: .read
            case 10..<14: .writeZeroes
            case 14..<18: .discard
            default: .write
            }
        let sectors = operation == .read ? anywhere() : own(operation)
        guard !pending.contains(where: { $0?.sectors.overlaps(sectors) == true }) else {
            count -= 1
            return false
        }
        submit(harness, slot, operation, sectors)
        return true
    }

    private func submit(
        _ harness: EngineHarness, _ slot: Int, _ operation: BlockRequest.Operation, _ sectors: Range<Int>
    ) {
        var what = Pending(operation: operation, sectors: sectors, count: count)
        var request = BlockRequest(
            operation, slot: UInt32(slot), guest: GuestOffset(UInt64(sectors.lowerBound * 512)),
            length: UInt64(sectors.count * 512), mayUnmap: random.below(2) == 0)
        if operation == .read || operation == .write {
            what.ranges = ranges(slot, sectors.count * 512)
            if operation == .write { fill(what) }
            request.iovecs = harness.kept(what.ranges, slot: slot)
            request.iovecCount = Int32(what.ranges.count)
        }
        pending[slot] = what
        harness.engine.submit(request)
    }

    /// Sectors of any owner, often around an edge between two owners.
    private func anywhere() -> Range<Int> {
        let all = model.marks.count
        let first = random.below(all)
        let most = min(all - first, burst.room / 512)
        return first..<first + min(most, 1 + random.below(1 << random.below(11)))
    }

    /// Sectors of one of its own runs; often all of it, or whole clusters.
    private func own(_ operation: BlockRequest.Operation) -> Range<Int> {
        let runs = burst.owners.runs[Int(index)]
        let run = runs[random.below(runs.count)]
        let most = operation == .write ? burst.room / 512 : run.count
        guard random.below(3) != 0 else { return run.first..<run.first + min(run.count, most) }
        let skip = random.below(run.count)
        let first = run.first + skip
        return first..<first + min(1 + random.below(run.count - skip), most)
    }

    /// Mostly as kernels do it: whole pages, one range.
    private func ranges(_ slot: Int, _ length: Int) -> [iovec] {
        let base = memory + slot * stride
        guard random.below(3) == 0 else { return [iovec(iov_base: base + random.below(2) * 512, iov_len: length)] }
        var list: [iovec] = []
        var (left, at) = (length, 0)
        while left > 0 {
            let part = list.count == 11 ? left : min(left, 1 + random.below(random.below(2) == 0 ? 600 : length))
            let skew = random.below(2) * random.below(513)
            list.append(iovec(iov_base: base + at + skew, iov_len: part))
            at = (at + skew + part + 4095) & ~4095
            left -= part
        }
        return list
    }

    private func fill(_ what: Pending) {
        withWhole(what, isWrite: true) { bytes in
            for (i, sector) in what.sectors.enumerated() {
                SectorMark(sector: sector, owner: Int(index), burst: burst.number, count: what.count)
                    .fill(bytes + i * 512)
            }
        }
    }

    /// The bytes of a transfer in one piece.
    private func withWhole(_ what: Pending, isWrite: Bool, _ body: (UnsafeMutableRawPointer) -> Void) {
        if what.ranges.count == 1, let base = what.ranges[0].iov_base { return body(base) }
        withUnsafeTemporaryAllocation(byteCount: what.sectors.count * 512, alignment: 8) { whole in
            guard let base = whole.baseAddress else { return }
            if isWrite { body(base) }
            var at = 0
            for range in what.ranges {
                if isWrite {
                    memcpy(range.iov_base, base + at, range.iov_len)
                } else {
                    memcpy(base + at, range.iov_base, range.iov_len)
                }
                at += range.iov_len
            }
            if !isWrite { body(base) }
        }
    }

    // MARK: end

    /// Nil, or what is wrong.
    private func end(_ finished: RequestEngine.Finished) -> String? {
        let slot = Int(finished.slot)
        guard let what = pending[slot] else { return "slot \(slot) finished twice" }
        pending[slot] = nil
        guard finished.error == 0 else { return "\(what.operation) of \(what.sectors) fails with \(finished.error)" }
        switch what.operation {
        case .read:
            var wrong: String?
            withWhole(what, isWrite: false) { bytes in wrong = judge(what, bytes) }
            return wrong
        case .write, .writeZeroes:
            for sector in what.sectors {
                model.marks[sector] =
                    what.operation == .writeZeroes
                    ? 0
                    : SectorMark(sector: sector, owner: Int(index), burst: burst.number, count: what.count).word
                model.mayBeZero[sector] = false
            }
        case .discard: for sector in what.sectors { model.mayBeZero[sector] = model.marks[sector] != 0 }
        case .flush: break
        }
        return nil
    }

    private func judge(_ what: Pending, _ bytes: UnsafeMutableRawPointer) -> String? {
        for (i, sector) in what.sectors.enumerated() {
            let place = UnsafeRawPointer(bytes + i * 512)
            let owner = burst.owners.owner[sector]
            if owner == index {
                if let wrong = model.judge(sector, place) { return "a read of \(what.sectors): \(wrong)" }
            } else if let seen = SectorMark(place), burst.allows(seen.word, sector) {
                continue
            } else {
                // Another thread may be writing, in pieces that end anywhere: then each byte is one or the other.
                for word in 0..<64 {
                    let seen = place.loadUnaligned(fromByteOffset: word * 8, as: UInt64.self)
                    guard !burst.allowsParts(of: seen, sector) else { continue }
                    return "a read of \(what.sectors): sector \(sector) of thread \(owner) has \(SectorMark(seen))"
                }
            }
        }
        return nil
    }
}

/// The thread of a worker.
struct ConcurrentLife: ThreadWork, ~Copyable {
    let worker: ConcurrentWorker
    consuming func run() { worker.run() }
}
