// Disks fail and fill up while clusters are being allocated. A run of requests, during which one transfer
// fails or does only a part: the error reaches a request that met it, all others go on, and no sector ever shows what was not
// written there.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import TestKit
import Testing

/// What the kernel says once, instead of what it did.
enum RingFault: Sendable, CaseIterable, CustomTestStringConvertible {
    case io, full, short
    var testDescription: String {
        switch self {
        case .io: "EIO"
        case .full: "ENOSPC"
        case .short: "a part"
        }
    }
    var error: Int32 { self == .io ? EIO : ENOSPC }
}

/// One run of requests, of which one transfer fails.
final class FaultRun {
    static let size = 1 << 20
    static let slots = 6
    static let requests = AllocationFaultTests.isWhole ? 120 : 40
    static let room = 64 << 10

    let images: Images
    let direct: Bool
    var random: SeededRandom
    /// What each sector may hold: the number of the write that wrote it, 0 for what was there; several after a failure.
    var sectors: [[UInt32]]
    let start: [UInt8]
    var failures: [Int32] = []
    let memory = UnsafeMutableRawPointer.allocate(byteCount: slots * room, alignment: 4096)
    var pending = [(kind: BlockRequest.Operation, sectors: Range<Int>, mark: UInt32)?](repeating: nil, count: slots)
    /// Transfers so far, and the one that is lied about.
    var transfers = 0
    var hit: (kind: UInt64, didHappen: Int32)?
    /// Of each kind that a failure could be told of.
    var kinds = [Int](repeating: 0, count: 8)

    init(_ images: Images, _ start: [UInt8], direct: Bool, seed: UInt64) {
        (self.images, self.start, self.direct) = (images, start, direct)
        random = SeededRandom(seed)
        sectors = [[UInt32]](repeating: [0], count: Self.size / 512)
    }
    deinit { memory.deallocate() }

    /// Nil, or what went wrong.
    func run(failing: Int, _ fault: RingFault) throws -> String? {
        try images.run("cp --reflink=never start.img a.img")
        let chain = try images.open("a.img", direct: direct, l2CacheLimit: 1, writable: true, format: .qcow2)
        do {
            let harness = try EngineHarness(chain, slots: Self.slots, maxIovecs: 2)
            // All transfers are the ring's.
            harness.engine.writesInline = false
            // Each write waits for a sync of its own then.
            harness.engine.writeThrough = failing % 4 == 3
            harness.alterResult = { [unowned self] userData, result in alterResult(userData, result, failing, fault) }
            if let trouble = work(harness) { return trouble }
            if let trouble = blame(fault) { return trouble }
            harness.alterResult = { _, result in result }
            let isLost = hit?.kind == 3 && fault != .short && !isDirect(chain)
            if !isLost, let trouble = goesOn(harness) { return trouble }
            if let trouble = judge(harness.read(0, Self.size)) { return trouble }
            guard !isLost else {
                #expect(throws: ImageError.self) { try chain.closeAndUnlock() }
                return nil
            }
        }
        try chain.closeAndUnlock()
        return nil
    }

    func isDirect(_ chain: ImageChain) -> Bool {
        chain.files[Int(chain.activeDataFile)].directFD >= 0 && chain.clusterSize(ofLayer: 0) >= 4096
    }

    private func alterResult(_ userData: UInt64, _ result: Int32, _ failing: Int, _ fault: RingFault) -> Int32 {
        let kind = userData >> 60 & 7
        // The poll of the writer client's eventfd is no transfer.
        guard kind != 4 else { return result }
        transfers += 1
        kinds[Int(kind)] += 1
        guard transfers == failing else { return result }
        // A sync and an fallocate have no parts; a transfer of one sector neither.
        if fault == .short { return result > 512 ? Int32(512 * (1 + random.below(Int(result) / 512 - 1))) : result }
        hit = (kind, result)
        return 0 - fault.error
    }

    // MARK: requests

    func work(_ harness: EngineHarness) -> String? {
        var (started, done) = (0, 0)
        while done < Self.requests {
            for slot in 0..<Self.slots where pending[slot] == nil && started < Self.requests {
                guard begin(harness, slot, UInt32(started + 1)) else { break }
                started += 1
            }
            guard let finished = harness.wait() else { return "stuck after \(done)" }
            done += 1
            end(finished)
        }
        return nil
    }

    /// False: it would touch what another request is about.
    private func begin(_ harness: EngineHarness, _ slot: Int, _ mark: UInt32) -> Bool {
        let first = random.below(Self.size / 512)
        let count = min(1 + random.below(1 << random.below(8)), Self.size / 512 - first, Self.room / 512)
        let range = first..<first + count
        guard !pending.contains(where: { $0?.sectors.overlaps(range) == true }) else { return false }
        var request = BlockRequest(
            .write, slot: UInt32(slot), guest: GuestOffset(UInt64(first * 512)), length: UInt64(count * 512),
            mayUnmap: random.below(2) == 0)
        switch random.below(8) {
        case 0: request = BlockRequest(.flush, slot: UInt32(slot))
        case 1, 2: request.operation = .writeZeroes
        default:
            let base = memory + slot * Self.room
            for sector in 0..<count {
                (base + sector * 512).storeBytes(of: mark, as: UInt32.self)
                memcpy(base + sector * 512 + 4, base + sector * 512, 4)
                for done in [8, 16, 32, 64, 128, 256] {
                    memcpy(base + sector * 512 + done, base + sector * 512, done)
                }
            }
            request.iovecs = harness.kept([iovec(iov_base: base, iov_len: count * 512)], slot: slot)
            request.iovecCount = 1
        }
        pending[slot] = (request.operation, request.operation == .flush ? 0..<0 : range, mark)
        harness.engine.submit(request)
        return true
    }

    private func end(_ finished: RequestEngine.Finished) {
        let slot = Int(finished.slot)
        guard let (kind, range, mark) = pending[slot] else { return }
        pending[slot] = nil
        let new = kind == .writeZeroes ? UInt32.max : mark
        if finished.error != 0 { failures.append(finished.error) }
        for sector in range { sectors[sector] = finished.error == 0 ? [new] : sectors[sector] + [new] }
    }

    // MARK: what must be

    /// The failure reaches a request, and no other has one.
    private func blame(_ fault: RingFault) -> String? {
        guard let hit else { return failures.isEmpty ? nil : "nothing failed, and requests did: \(failures)" }
        // fallocate may fail for what is written out by other means then.
        if failures.isEmpty { return "a transfer of kind \(hit.kind) failed (\(hit.didHappen)), and no request did" }
        // A table that cannot be read is damage; what follows a lost sync is EIO.
        let allowed = [fault.error, EIO]
        return failures.allSatisfy { allowed.contains($0) } ? nil : "the wrong error: \(failures)"
    }

    func goesOn(_ harness: EngineHarness) -> String? {
        let before = failures.count
        for mark in 100..<UInt32(110) {
            guard begin(harness, 0, mark) else { return "something is still pending" }
            guard let finished = harness.wait() else { return "stuck afterwards" }
            end(finished)
        }
        harness.engine.submit(BlockRequest(.flush, slot: 0))
        if harness.wait()?.error != 0 { return "a flush fails afterwards" }
        return failures.count == before ? nil : "requests fail afterwards: \(failures)"
    }

    func judge(_ read: (error: Int32, bytes: [UInt8], damage: MapDamage?)) -> String? {
        guard read.error == 0 else { return "the disk cannot be read: \(read.error)" }
        for sector in sectors.indices {
            let fits = sectors[sector].contains { holds(read.bytes, sector, $0) }
            if !fits { return "sector \(sector) has what was not written there: it may be \(sectors[sector])" }
        }
        return nil
    }

    /// Whether the sector is as the write `mark` left it.
    private func holds(_ bytes: [UInt8], _ sector: Int, _ mark: UInt32) -> Bool {
        return bytes.withUnsafeBytes { bytes in
            guard let place = bytes.baseAddress.map({ $0 + sector * 512 }) else { return false }
            if mark == 0 {
                return start.withUnsafeBytes {
                    $0.baseAddress.map { memcmp($0 + sector * 512, place, 512) == 0 } ?? false
                }
            }
            // One word, and each the next one's twin.
            return place.loadUnaligned(as: UInt32.self) == (mark == .max ? 0 : mark)
                && memcmp(place, place + 4, 508) == 0
        }
    }
}

extension FaultRun {
    /// After a sync that failed through the page cache nothing more is written.
    var mayLeak: Bool { hit?.kind == 3 }
}
