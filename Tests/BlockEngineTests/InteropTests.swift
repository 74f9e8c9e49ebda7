// An image that qblk writes stays QEMU's to write, and the other way round. The two take turns on one
// image, never at once, and a flat array of bytes says after each turn what must be there. Locks keep the turns apart.
import BlockEngine
import DiskTypes
import Foundation
import Glibc
import ImageChain
import TestKit
import Testing

struct InteropShape: CustomTestStringConvertible, Sendable {
    let name: String
    var options = "compat=1.1"
    var cluster = 64 << 10
    var size = 4 << 20
    var hasBacking = false
    /// QEMU also makes and deletes snapshots.
    var snapshots = false
    /// Version 2 has no entry for zeros: with a backing file nothing can be discarded.
    var discards = true
    var testDescription: String { name }

    static let all: [InteropShape] = [
        InteropShape(name: "64k"),
        InteropShape(name: "64k, backing", hasBacking: true),
        InteropShape(name: "64k, snapshots", snapshots: true),
        InteropShape(name: "512", options: "cluster_size=512", cluster: 512, size: 1 << 20),
        InteropShape(
            name: "4k, 1 bit", options: "cluster_size=4k,refcount_bits=1,lazy_refcounts=on", cluster: 4 << 10),
        InteropShape(name: "4k, 64 bits", options: "cluster_size=4k,refcount_bits=64", cluster: 4 << 10),
        InteropShape(name: "2M", options: "cluster_size=2M", cluster: 2 << 20, size: 16 << 20),
        InteropShape(name: "extended", options: "extended_l2=on"),
        InteropShape(name: "extended, backing", options: "extended_l2=on", hasBacking: true),
        InteropShape(name: "version 2", options: "compat=0.10"),
        InteropShape(
            name: "version 2, backing", options: "compat=0.10,cluster_size=4k", cluster: 4 << 10, hasBacking: true,
            discards: false),
    ]
}

/// One image, whose turn it is, and what a guest must see.
private final class Interop {
    /// For all shapes together a thousand and more.
    static let turns = 92
    static let slots = 8

    let shape: InteropShape
    let images: Images
    var model: [UInt8]
    var random: SeededRandom
    /// What `write -s noise` repeats: half of it can be compressed.
    let noise: [UInt8]
    var snapshots: [String] = []
    var cluster: Int { shape.cluster }
    var longest: Int { min(shape.size / 4, max(cluster * 3, 64 << 10)) }

    init(_ shape: InteropShape, seed: UInt64) throws {
        self.shape = shape
        images = try Images()
        random = SeededRandom(seed)
        var bytes = [UInt8](repeating: 0x33, count: 8192)
        for i in 0..<4096 { bytes[i * 2 & 0x1fff] = UInt8(truncatingIfNeeded: random.next() >> 8) }
        noise = bytes
        try images.write("noise", noise)
        var create = "qemu-img create -f qcow2 -o \(shape.options)"
        if shape.hasBacking {
            // Shorter than the image.
            try images.disk("base.raw", size: shape.size / 2, seed: seed)
            create += " -b base.raw -F raw"
        }
        try images.run("\(create) a.img \(shape.size)")
        // Version 2 can give nothing up: what is compressed there, is from the start.
        let compressed = (0..<4).map {
            "-c 'write -c -s noise \(($0 * 3 + 1) * shape.cluster % shape.size) \(shape.cluster)'"
        }
        try images.run("qemu-io -f qcow2 \(compressed.joined(separator: " ")) a.img")
        model = try images.truth("a.img")
    }

    func run() throws {
        for turn in 1...Self.turns {
            if turn % 2 == 0 { try qemu() } else { try ours(direct: turn % 4 == 1) }
            if turn % 20 == 0 || turn == Self.turns { try images.run("qemu-img check -f qcow2 a.img") }
            if turn % 23 == 0 { try compare(try images.truth("a.img"), "qemu-img after turn \(turn)") }
        }
    }

    private func compare(_ bytes: [UInt8], _ who: String) throws {
        guard bytes.count == model.count, memcmp(bytes, model, model.count) == 0 else {
            let at = zip(bytes, model).enumerated().first { $0.element.0 != $0.element.1 }?.offset
            throw TestFailure("\(shape.name): \(who) reads other bytes, first at \(at ?? -1)")
        }
    }

    /// Some whole sectors, or units of `unit`.
    private func place(unit: Int = 512) -> (at: Int, length: Int) {
        let at = random.below(shape.size / unit) * unit
        let length = unit * (1 + random.below(1 + random.below(max(1, longest / unit))))
        return (at, min(length, shape.size - at))
    }

    private func set(_ at: Int, _ length: Int, _ byte: UInt8) {
        model.withUnsafeMutableBytes { all in
            guard let base = all.baseAddress else { return }
            memset(base + at, Int32(byte), length)
        }
    }

    private func setNoise(_ at: Int, _ length: Int) { for i in 0..<length { model[at + i] = noise[i & 0x1fff] } }

    // MARK: QEMU's turn

    private func qemu() throws {
        if shape.snapshots, random.below(3) == 0 { try changeSnapshots() }
        var commands: [String] = []
        for _ in 0...random.below(6) { commands.append(qemuChange()) }
        commands += compressedWrites()
        let line = commands.map { "-c '\($0)'" }.joined(separator: " ")
        try images.run("qemu-io -f qcow2 -d unmap \(line) a.img >io 2>&1 && ! grep -iE 'fail|error' io || ! cat io")
    }

    private func qemuChange() -> String {
        let byte = UInt8(1 + random.below(255))
        switch random.below(8) {
        case 0, 1:
            let (at, length) = place()
            set(at, length, byte)
            return "write -P \(byte) \(at) \(length)"
        case 2:
            let (at, length) = place()
            setNoise(at, length)
            return "write -s noise \(at) \(length)"
        case 3, 4:
            let (at, length) = place(unit: random.below(2) == 0 ? 512 : cluster)
            set(at, length, 0)
            return "write -z \(random.below(2) == 0 ? "-u " : "")\(at) \(length)"
        case 5:
            // Whole clusters: they read as zeros afterwards, with QEMU too.
            let (at, length) = place(unit: cluster)
            if shape.discards { set(at, length, 0) }
            return "discard \(at) \(length)"
        case 6:
            let (at, length) = place()
            set(at, length, byte)
            return "aio_write -P \(byte) \(at) \(length)' -c 'aio_flush"
        default: return "flush"
        }
    }

    /// Last, and each cluster once: QEMU 10.0.2 writes into clusters that are in use when a compressed one is given up
    /// before the next is written. It compresses nothing into a cluster that is there: they are discarded first.
    private func compressedWrites() -> [String] {
        guard shape.discards else { return [] }
        var clusters: Set<Int> = []
        for _ in 0..<random.below(4) { clusters.insert(random.below(shape.size / cluster)) }
        let places = clusters.sorted().map { $0 * cluster }
        for at in places { setNoise(at, cluster) }
        return places.map { "discard \($0) \(cluster)" } + places.map { "write -c -s noise \($0) \(cluster)" }
    }

    private func changeSnapshots() throws {
        if snapshots.count > 2 {
            try images.run("qemu-img snapshot -d \(snapshots.removeFirst()) a.img")
        } else {
            snapshots.append("s\(random.below(1_000_000))")
            try images.run("qemu-img snapshot -c \(snapshots[snapshots.count - 1]) a.img")
        }
    }

    // MARK: our turn

    private func ours(direct: Bool) throws {
        let chain = try images.open("a.img", direct: direct, writable: true, format: .qcow2)
        do {
            let harness = try EngineHarness(chain, slots: Self.slots)
            let before = harness.read(0, shape.size)
            guard before.error == 0 else { throw TestFailure("\(shape.name): a read fails with \(before.error)") }
            try compare(before.bytes, "qblk")
            let room = (longest + 4095) & ~4095
            let memory = UnsafeMutableRawPointer.allocate(byteCount: Self.slots * room, alignment: 4096)
            defer { memory.deallocate() }
            for _ in 0...random.below(4) { try batch(harness, memory, room) }
        }
        try chain.closeAndUnlock()
    }

    /// Some requests at once, none of which touches another's clusters' bytes.
    private func batch(_ harness: EngineHarness, _ memory: UnsafeMutableRawPointer, _ room: Int) throws {
        var taken: [Range<Int>] = []
        var started = 0
        for slot in 0..<(1 + random.below(Self.slots)) {
            let (at, length) = place(unit: random.below(4) == 0 ? min(cluster, longest) : 512)
            guard length <= room, !taken.contains(where: { $0.overlaps(at..<at + length) }) else { continue }
            taken.append(at..<at + length)
            started += 1
            start(harness, slot, at, length, memory + slot * room)
        }
        for _ in 0..<started {
            guard let finished = harness.wait() else { throw TestFailure("\(shape.name): stuck") }
            guard finished.error == 0 else {
                throw TestFailure("\(shape.name): a request fails with \(finished.error)")
            }
        }
    }

    private func start(
        _ harness: EngineHarness, _ slot: Int, _ at: Int, _ length: Int, _ memory: UnsafeMutableRawPointer
    ) {
        var request = BlockRequest(
            .write, slot: UInt32(slot), guest: GuestOffset(UInt64(at)), length: UInt64(length),
            mayUnmap: random.below(2) == 0)
        switch random.below(8) {
        case 0, 1:
            set(at, length, 0)
            request.operation = .writeZeroes
        case 2:
            let first = (at + cluster - 1) / cluster * cluster
            let last = (at + length) / cluster * cluster
            if shape.discards, first < last { set(first, last - first, 0) }
            request.operation = .discard
        case 3: request = BlockRequest(.flush, slot: UInt32(slot))
        default:
            let byte = UInt8(1 + random.below(255))
            set(at, length, byte)
            memset(memory, Int32(byte), length)
            request.iovecs = harness.kept([iovec(iov_base: memory, iov_len: length)], slot: slot)
            request.iovecCount = 1
        }
        harness.engine.submit(request)
    }
}

@Suite("qblk and QEMU", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)")) struct InteropTests {
    /// QBLK_SEED repeats a run.
    static let seed = ProcessInfo.processInfo.environment["QBLK_SEED"].flatMap { UInt64($0) } ?? .random(in: 1...99999)

    @Test("write one image in turns", arguments: InteropShape.all) func turns(shape: InteropShape) throws {
        do { try Interop(shape, seed: Self.seed).run() } catch {
            Issue.record("seed \(Self.seed): \(error)")
        }
    }

    @Test("qemu-io is refused what qblk writes, and the image stays as it is", arguments: [true, false])
    func qemuIsRefused(direct: Bool) throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.img 1M && qemu-io -f qcow2 -c 'write -P 7 0 64k' a.img")
        let before = try images.bytes("a.img")
        let chain = try images.open("a.img", direct: direct, writable: true, format: .qcow2)
        try images.run("! qemu-io -f qcow2 -c 'write -P 8 0 64k' a.img >io 2>&1 && grep -q 'lock' io")
        #expect(try images.bytes("a.img") == before)
        try chain.close()
    }

    @Test("qblk is refused what qemu-io writes, until it ends") func weAreRefused() throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.img 1M && mkfifo orders")
        // Opened for both: no process waits for the other end.
        var qemu = try Command(["sh", "-c", "exec qemu-io -f qcow2 a.img <>orders"], in: images.folder).spawn()
        defer { qemu.end() }
        try images.run("printf 'write -P 9 0 64k\\nflush\\n' >orders")
        while !qemu.outputSoFar().contains("wrote"), qemu.age < 60 { usleep(5000) }
        for writable in [true, false] {
            let error = #expect(throws: ImageError.self) {
                _ = try images.open("a.img", writable: writable, format: .qcow2)
            }
            #expect(error?.kind == .locked)
        }
        try images.run("printf 'quit\\n' >orders")
        while qemu.isRunning, qemu.age < 60 { usleep(5000) }
        let harness = try EngineHarness(try images.open("a.img", writable: true, format: .qcow2))
        #expect(harness.read(0, 64 << 10).bytes == [UInt8](repeating: 9, count: 64 << 10))
    }
}
