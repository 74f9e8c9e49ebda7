// Writes in place, zeros, discards and flushes are held against a flat array of bytes, with many in
// flight, in every mix of memory and alignment, and with a kernel that answers in parts. What cannot be written in place
// must fail and leave every byte as it was.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import TestKit
import Testing

/// Requests in flight on a disk that is divided among the slots, so that what each should read is known.
private final class WriteModel {
    static let slots = 16
    static let share = 256 << 10
    static let room = 1 << 20
    static var size: Int { slots * share }

    let chain: ImageChain
    let harness: EngineHarness
    var model: [UInt8]
    var random: SeededRandom
    let memory = UnsafeMutableRawPointer.allocate(byteCount: slots * room, alignment: 4096)
    /// What each slot is about: nil while it is free.
    var pending = [(operation: BlockRequest.Operation, at: Int, length: Int, ranges: [iovec])?](
        repeating: nil, count: slots)
    /// Discards make whole units of this size zero, and leave the rest alone; 0: they do nothing.
    let discardUnit: Int
    var canDiscard = true

    init(_ chain: ImageChain, _ truth: [UInt8], seed: UInt64) throws {
        discardUnit = chain.isRaw ? 512 : chain.files.count > 1 ? 0 : chain.clusterSize(ofLayer: 0)
        self.chain = chain
        harness = try EngineHarness(chain, slots: Self.slots, maxIovecs: 16, number: 7)
        model = truth
        random = SeededRandom(seed)
    }
    deinit { memory.deallocate() }

    private func ranges(_ slot: Int, _ length: Int) -> [iovec] {
        let base = memory + slot * Self.room
        // Mostly as kernels do it: whole pages, one range.
        guard random.below(3) == 0 else { return [iovec(iov_base: base, iov_len: length)] }
        var list: [iovec] = []
        var left = length
        var at = 0
        while left > 0 {
            let part = list.count == 15 ? left : min(left, 1 + random.below(random.below(2) == 0 ? 600 : length))
            let skew = random.below(2) * random.below(513)
            list.append(iovec(iov_base: base + at + skew, iov_len: part))
            at = (at + skew + part + 4095) & ~4095
            left -= part
        }
        return list
    }

    private func start(_ slot: Int) {
        let at = slot * Self.share + random.below(Self.share / 512) * 512
        let length = min(512 * (1 + random.below(1 << random.below(8))), (slot + 1) * Self.share - at)
        let kinds: [BlockRequest.Operation] = [.read, .write, .write, .writeZeroes, .flush, .discard]
        let kind = kinds[random.below(canDiscard ? 6 : 5)]
        let list = kind == .read || kind == .write ? ranges(slot, length) : []
        if kind == .write {
            for range in list {
                guard let base = range.iov_base else { continue }
                for i in 0..<range.iov_len {
                    (base + i).storeBytes(of: UInt8(truncatingIfNeeded: random.next()), as: UInt8.self)
                }
            }
        }
        pending[slot] = (kind, at, length, list)
        harness.engine.submit(
            BlockRequest(
                kind, slot: UInt32(slot), guest: GuestOffset(UInt64(kind == .flush ? 0 : at)),
                length: UInt64(kind == .flush ? 0 : length),
                iovecs: list.isEmpty ? nil : harness.kept(list, slot: slot), iovecCount: Int32(list.count),
                mayUnmap: random.below(2) == 0))
    }

    /// Nil when the answer is what it should be.
    private func judge(_ finished: RequestEngine.Finished) -> String? {
        let slot = Int(finished.slot)
        guard let (operation, at, length, list) = pending[slot] else { return "slot \(slot) came back twice" }
        pending[slot] = nil
        if finished.error != 0 { return "\(operation) of \(length) at \(at): error \(finished.error)" }
        switch operation {
        case .flush: break
        case .write:
            var place = at
            for range in list {
                guard let base = range.iov_base else { continue }
                model.replaceSubrange(
                    place..<place + range.iov_len, with: UnsafeRawBufferPointer(start: base, count: range.iov_len))
                place += range.iov_len
            }
        case .writeZeroes: model.replaceSubrange(at..<at + length, with: repeatElement(0, count: length))
        case .discard:
            guard discardUnit > 0 else { break }
            let first = (at + discardUnit - 1) / discardUnit * discardUnit
            let last = (at + length) / discardUnit * discardUnit
            if first < last { model.replaceSubrange(first..<last, with: repeatElement(0, count: last - first)) }
        case .read:
            var place = at
            for range in list {
                let got = UnsafeRawBufferPointer(start: range.iov_base, count: range.iov_len)
                guard got.elementsEqual(model[place..<place + range.iov_len]) else {
                    return "a read of \(length) at \(at) gives other bytes"
                }
                place += range.iov_len
            }
        }
        return nil
    }
    func run(_ count: Int) -> String? {
        var started = 0
        var done = 0
        while done < count {
            for slot in 0..<Self.slots where pending[slot] == nil && started < count {
                start(slot)
                started += 1
            }
            guard let finished = harness.wait() else { return "stuck after \(done) of \(count)" }
            done += 1
            if let trouble = judge(finished) { return trouble }
        }
        let all = harness.read(0, Self.size)
        guard all.error == 0 else { return "the disk cannot be read: \(all.error)" }
        for i in 0..<Self.size where all.bytes[i] != model[i] {
            return "byte \(i) is wrong at the end"
        }
        return nil
    }
}

@Suite("Writes in place", .enabled(if: hasQemuImg, "needs qemu-img")) struct WriteTests {
    struct Case: Sendable, CustomStringConvertible {
        let name: String
        let make: String
        let format: ImageFormat
        let direct: Bool
        var description: String { "\(name), \(direct ? "direct" : "page cache")" }
    }
    static let cases: [Case] = [
        ("raw", "cp a.raw a.img", ImageFormat.raw),
        ("qcow2", "qemu-img convert -S 0 -f raw -O qcow2 a.raw a.img", .qcow2),
        ("qcow2 of 4 KiB clusters", "qemu-img convert -S 0 -f raw -O qcow2 -o cluster_size=4096 a.raw a.img", .qcow2),
        ("qcow2 of 512 byte clusters", "qemu-img convert -S 0 -f raw -O qcow2 -o cluster_size=512 a.raw a.img", .qcow2),
        ("qcow2 with subclusters", "qemu-img convert -S 0 -f raw -O qcow2 -o extended_l2=on a.raw a.img", .qcow2),
        (
            "qcow2 with a data file",
            "qemu-img convert -S 0 -f raw -O qcow2 -o data_file=$PWD/a.data,data_file_raw=on a.raw a.img", .qcow2
        ),
    ].flatMap { item in
        [true, false].map { Case(name: item.0, make: item.1, format: item.2, direct: $0) }
    }

    private func model(_ images: Images, _ item: Case, seed: UInt64) throws -> WriteModel {
        let truth = try images.disk("a.raw", size: WriteModel.size)
        try images.run(item.make)
        let chain = try images.open("a.img", direct: item.direct, writable: true, format: item.format)
        return try WriteModel(chain, truth, seed: seed)
    }

    @Test("random requests, against an array", arguments: cases, [UInt64(1), 2])
    func random(item: Case, seed: UInt64) throws {
        let images = try Images()
        let model = try model(images, item, seed: seed)
        #expect(model.run(600) == nil)
    }

    @Test("what was written is what QEMU reads", arguments: cases)
    func qemuReadsIt(item: Case) throws {
        let images = try Images()
        do {
            let model = try model(images, item, seed: 3)
            let trouble = model.run(300)
            try #require(trouble == nil)
            try images.write("ours.raw", model.harness.read(0, WriteModel.size).bytes)
            try model.chain.closeAndUnlock()
        }
        try images.run("qemu-img compare -f \(item.format.rawValue) -F raw a.img ours.raw")
        if item.format == .qcow2 { try images.run("qemu-img check a.img") }
    }

    @Test("a kernel that answers in parts, or not now", arguments: cases)
    func shortAnswers(item: Case) throws {
        let images = try Images()
        let model = try model(images, item, seed: 4)
        model.harness.engine.writesInline = false
        var random = SeededRandom(9)
        model.harness.alterResult = { _, result in
            switch random.below(6) {
            case 0 where result > 512: Int32(512 * (1 + random.below(Int(result) / 512)))
            case 1 where result >= 0: -EAGAIN
            case 2 where result >= 0: -EINTR
            default: result
            }
        }
        #expect(model.run(400) == nil)
    }

    @Test("a file system without fallocate", arguments: cases)
    func noFallocate(item: Case) throws {
        let images = try Images()
        let model = try model(images, item, seed: 5)
        model.canDiscard = false
        // fallocate answers 0, which nothing else but a flush does; a flush would be done again, no harm.
        model.harness.alterResult = { userData, result in result == 0 && userData >> 60 & 7 == 0 ? -EOPNOTSUPP : result
        }
        #expect(model.run(300) == nil)
    }

    // MARK: new clusters

    static let unallocated = [
        "qemu-img create -f qcow2 a.img 4M",
        "qemu-img create -f qcow2 -o extended_l2=on a.img 4M",
        "qemu-img create -f qcow2 -o preallocation=metadata,compat=0.10 a.img 4M",
        "qemu-img create -f qcow2 a.img 4M && qemu-io -f qcow2 -c 'write -P 1 0 4M' a.img && qemu-img snapshot -c s a.img",
        "qemu-img create -f qcow2 a.img 4M && qemu-io -f qcow2 -c 'write -z 0 4M' a.img",
        "qemu-img create -f raw b.raw 4M && qemu-io -f raw -c 'write -P 7 0 4M' b.raw && qemu-img convert -c -f raw -O qcow2 b.raw a.img",
        "qemu-img create -f raw b.raw 4M && qemu-io -f raw -c 'write -P 7 0 4M' b.raw && qemu-img create -f qcow2 -b b.raw -F raw a.img",
        "qemu-img create -f raw b.raw 4M && qemu-io -f raw -c 'write -P 7 0 4M' b.raw && qemu-img create -f qcow2 -o extended_l2=on -b b.raw -F raw a.img",
    ]

    @Test("random requests that allocate, against an array", arguments: unallocated, [true, false])
    func allocates(make: String, direct: Bool) throws {
        let images = try Images()
        try images.run(make)
        let truth = try images.truth("a.img")
        do {
            let chain = try images.open("a.img", direct: direct, writable: true, format: .qcow2)
            let model = try WriteModel(chain, truth, seed: 6)
            // Version 2 has no discard where it could show what is below; the model knows no more than units.
            model.canDiscard = !make.contains("0.10")
            let trouble = model.run(600)
            try #require(trouble == nil)
            try images.write("ours.raw", model.harness.read(0, WriteModel.size).bytes)
            try chain.closeAndUnlock()
        }
        try images.run("qemu-img compare -f qcow2 -F raw a.img ours.raw && qemu-img check a.img")
    }

    @Test("after a flush failed through the page cache, no new cluster is mapped and no flush succeeds") func lost()
        throws
    {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.img 4M")
        let before = try images.bytes("a.img")
        let chain = try images.open("a.img", direct: false, writable: true, format: .qcow2)
        let harness = try EngineHarness(chain, maxIovecs: 2)
        // Bits 60 to 62 are the kind: 3 is a sync.
        harness.alterResult = { userData, result in userData >> 60 & 7 == 3 ? -EIO : result }
        harness.engine.submit(BlockRequest(.flush, slot: 0, guest: GuestOffset(0), length: 0))
        #expect(harness.wait()?.error == EIO)
        harness.alterResult = { _, result in result }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 0x5a, 4096)
        harness.engine.submit(
            BlockRequest(
                .write, slot: 0, guest: GuestOffset(1 << 20), length: 4096,
                iovecs: harness.kept([iovec(iov_base: memory, iov_len: 4096)], slot: 0), iovecCount: 1))
        #expect(harness.wait()?.error == EIO)
        harness.engine.submit(BlockRequest(.flush, slot: 1, guest: GuestOffset(0), length: 0))
        #expect(harness.wait()?.error == EIO)
        #expect(throws: ImageError.self) { try chain.close() }
        #expect(try images.bytes("a.img") == before)
    }

    @Test("one flush brings data and mapping to the disk") func flushes() throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.img 4M")
        let chain = try images.open("a.img", writable: true, format: .qcow2)
        let harness = try EngineHarness(chain, maxIovecs: 2)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 0x5a, 4096)
        harness.engine.submit(
            BlockRequest(
                .write, slot: 0, guest: GuestOffset(1 << 20), length: 4096,
                iovecs: harness.kept([iovec(iov_base: memory, iov_len: 4096)], slot: 0), iovecCount: 1))
        #expect(harness.wait()?.error == 0)
        harness.engine.submit(BlockRequest(.flush, slot: 1, guest: GuestOffset(0), length: 0))
        #expect(harness.wait()?.error == 0)
        // Nothing is closed: a copy of the file is what a crash leaves.
        try images.run("cp a.img b.img && qemu-io -f qcow2 -r -c 'read -P 0x5a 1M 4k' b.img && qemu-img check b.img")
        try chain.closeAndUnlock()
    }

    @Test("zeros where zeros are need no cluster") func zerosOverZeros() throws {
        let images = try Images()
        try images.run("qemu-img create -f qcow2 a.img 4M")
        let harness = try EngineHarness(try images.open("a.img", writable: true, format: .qcow2))
        harness.engine.submit(BlockRequest(.writeZeroes, slot: 0, guest: GuestOffset(0), length: 4 << 20))
        #expect(harness.wait()?.error == 0)
    }

    @Test("a read-only chain refuses every change and answers a flush") func readOnly() throws {
        let images = try Images()
        try images.run("qemu-img create -f raw a.img 4M")
        let harness = try EngineHarness(try images.open("a.img", format: .raw))
        for (operation, error) in [
            (BlockRequest.Operation.writeZeroes, EROFS), (.discard, EROFS), (.flush, 0),
        ] {
            harness.engine.submit(BlockRequest(operation, slot: 0, guest: GuestOffset(0), length: 0))
            #expect(harness.wait()?.error == error)
        }
    }

    @Test(
        "what a writer could not keep true is not opened for writing",
        arguments: [
            ("qemu-img create -f qcow2 a.img 4M && printf '\\2' | dd of=a.img bs=1 seek=79 conv=notrunc", "corrupt"),
            ("qemu-img create -f qcow2 a.img 4M && printf '\\1' | dd of=a.img bs=1 seek=79 conv=notrunc", "not closed"),
        ])
    func notWritable(make: String, why: String) throws {
        let images = try Images()
        try images.run(make)
        let error = #expect(throws: ImageError.self) { try images.open("a.img", writable: true, format: .qcow2) }
        #expect(error?.what.contains(why) == true, "\(error.map { "\($0)" } ?? "no error")")
        _ = try images.open("a.img")
    }

    @Test("a raw file's last sector is completed when it is opened for writing") func lastSector() throws {
        let images = try Images()
        try images.write("a.img", [UInt8](repeating: 7, count: 1000))
        let harness = try EngineHarness(try images.open("a.img", writable: true, format: .raw))
        let (error, bytes, _) = harness.read(512, 512)
        #expect(error == 0)
        #expect(bytes == [UInt8](repeating: 7, count: 488) + [UInt8](repeating: 0, count: 24))
    }

    // MARK: neighbours and flushes

    @Test("neighbours of one batch are one transfer", arguments: [true, false]) func merged(direct: Bool) throws {
        let images = try Images()
        let truth = try images.disk("a.raw", size: 1 << 20)
        let harness = try EngineHarness(try images.open("a.raw", direct: direct, format: .raw), slots: 32)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 32 << 12, alignment: 4096)
        defer { memory.deallocate() }
        for slot in 0..<32 {
            harness.engine.submitRead(
                slot: slot, guest: GuestOffset(UInt64(slot << 12)), buffer: memory + slot << 12, length: 4096)
        }
        for _ in 0..<32 { #expect(harness.wait()?.error == 0) }
        #expect(harness.engine.statistics.dataTransfers == 1)
        #expect(harness.engine.statistics.merged == 32)
        #expect(Array(UnsafeRawBufferPointer(start: memory, count: 32 << 12)) == Array(truth[..<(32 << 12)]))
    }

    @Test("flushes that come while one runs share the next") func flushesJoin() throws {
        let images = try Images()
        try images.disk("a.raw", size: 1 << 20)
        let harness = try EngineHarness(try images.open("a.raw", writable: true, format: .raw), slots: 16)
        for slot in 0..<16 { harness.engine.submit(BlockRequest(.flush, slot: UInt32(slot))) }
        for _ in 0..<16 { #expect(harness.wait()?.error == 0) }
        #expect(harness.engine.statistics.syncs == 2)
    }

    @Test("durable zeros on a disk whose flushes are ignored end", .timeLimit(.minutes(20))) func unsafeZeros() throws {
        let images = try Images()
        try images.disk("a.raw", size: 1 << 20)
        let harness = try EngineHarness(try images.open("a.raw", writable: true, format: .raw))
        harness.engine.writeThrough = true
        harness.engine.ignoresFlushes = true
        harness.engine.submit(BlockRequest(.writeZeroes, slot: 0, guest: GuestOffset(0), length: 4096))
        #expect(harness.wait()?.error == 0)
    }

    @Test("after a flush failed through the page cache, every later one fails") func failedFlushSticks() throws {
        let images = try Images()
        try images.disk("a.raw", size: 1 << 20)
        let harness = try EngineHarness(try images.open("a.raw", direct: false, writable: true, format: .raw))
        harness.alterResult = { _, _ in -ENOSPC }
        harness.engine.submit(BlockRequest(.flush, slot: 0))
        #expect(harness.wait()?.error == ENOSPC)
        harness.alterResult = { _, result in result }
        harness.engine.submit(BlockRequest(.flush, slot: 0))
        #expect(harness.wait()?.error == ENOSPC)
    }
}
