// Long transfers that two threads share: the same bytes and the same errors as those of one.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import TestKit
import Testing

@testable import BlockEngine

@Suite("Long transfers of two threads", .disabled(if: ThreadFlags.processors < 2, "there is one processor"))
struct ParallelCopyTests {
    private func pair(_ chain: ImageChain) throws -> GuestHarness {
        let helper = CopyHelper(maxIovecs: 16, looks: 1_000_000, least: 64 << 10, chunkBytes: 8 << 10)
        return try GuestHarness(chain, maxIovecs: 16, helper: helper)
    }

    @Test("A helper that has too little room for an engine's lists is refused")
    func smallPartner() throws {
        let images = try Images(in: "/dev/shm")
        try images.run("truncate -s 4M a.img")
        let chain = try images.open("a.img", writable: true, format: .raw)
        let small = CopyHelper(maxIovecs: 15, looks: 0)
        #expect(throws: ImageError.self) { try GuestHarness(chain, maxIovecs: 16, helper: small) }
    }

    /// One range, or some with gaps between that all are whole `unit`s.
    private func ranges(_ length: Int, _ random: inout SeededRandom, unit: Int = 512) -> [Range<Int>] {
        var result: [Range<Int>] = []
        var place = random.below(64) * unit
        var left = length
        let most = 1 + random.below(12)
        while left > 0 {
            let units = left / unit
            let count = result.count == most - 1 || units < 2 ? left : (1 + random.below(units - 1)) * unit
            result.append(place..<place + count)
            place += count + random.below(20) * unit
            left -= count
        }
        return result
    }

    @Test(
        "A disk is what a flat array is",
        arguments: [
            ("raw", "", "/dev/shm"), ("qcow2", "cluster_size=64k", "/dev/shm"),
            ("qcow2", "cluster_size=1k", "/dev/shm"), ("qcow2", "cluster_size=64k", "/tmp"),
        ])
    func isAFlatArray(format: String, options: String, place: String) throws {
        let images = try Images(in: place)
        let size = 8 << 20
        var truth = [UInt8](repeating: 0, count: size)
        try images.run("qemu-img create -f \(format) \(options.isEmpty ? "" : "-o \(options)") a.img \(size)")
        let it = try pair(
            images.open("a.img", direct: false, writable: true, format: format == "raw" ? .raw : .qcow2))
        var random = SeededRandom(InteropTests.seed)
        for number in 1...600 {
            let length = (1 + random.below(2048)) * 512
            let guest = random.below((size - length) / 512 + 1) * 512
            let ranges = ranges(length, &random)
            if random.below(2) == 0 {
                #expect(it.run(.read, guest, ranges) == 0)
                let isRight = it.bytes(ranges) == Array(truth[guest..<guest + length])
                try #require(isRight, "request \(number): \(length) bytes at \(guest), seed \(InteropTests.seed)")
            } else {
                for (i, range) in ranges.enumerated() {
                    memset(it.memory.pointer + range.lowerBound, Int32(truncatingIfNeeded: number &+ i), range.count)
                }
                truth.replaceSubrange(guest..<guest + length, with: it.bytes(ranges))
                #expect(it.run(.write, guest, ranges) == 0)
            }
        }
        #expect(it.shared > 0, "the second thread did nothing")
        try it.chain.closeAndUnlock()
        #expect(try images.truth("a.img", format: format) == truth)
        if format == "qcow2" { try images.run("qemu-img check -f qcow2 a.img") }
    }

    @Test("Memory that does not lie in sectors is written by one thread")
    func oddMemory() throws {
        let images = try Images(in: "/dev/shm")
        try images.run("truncate -s 4M a.img")
        let it = try pair(images.open("a.img", writable: true, format: .raw))
        var random = SeededRandom(7)
        for number in 1...20 {
            let ranges = ranges(1 << 20, &random, unit: 64).map { $0.lowerBound + 64..<$0.upperBound + 64 }
            for range in ranges { memset(it.memory.pointer + range.lowerBound, Int32(number), range.count) }
            #expect(it.run(.write, 1 << 20, ranges) == 0)
            #expect(it.shared == 0)
        }
        try it.chain.closeAndUnlock()
        #expect(try images.bytes("a.img")[(1 << 20)..<(2 << 20)].allSatisfy { $0 == 20 })
    }

    @Test(
        "A file that is cut beneath costs the reads that meet it an error, and a write does not bring it back",
        arguments: ["/dev/shm", "/tmp"])
    func cut(place: String) throws {
        let images = try Images(in: place)
        try images.write("d.raw", [UInt8](repeating: 7, count: 4 << 20))
        let it = try pair(images.open("d.raw", direct: false, writable: true, format: .raw))
        let whole = [0..<1 << 20]
        for at in 0..<8 { #expect(it.run(.read, (at & 3) << 20, whole) == 0) }
        #expect(truncate(images.path("d.raw"), 2 << 20 | 512) == 0)
        #expect(it.run(.read, 2 << 20, whole) == EIO)
        #expect(it.run(.read, 3 << 20, whole) == EIO)
        memset(it.memory.pointer, 9, 1 << 20)
        // The one that reaches the file's end would give it its length back.
        for at in [3, 2, 0] { #expect(it.run(.write, at << 20, whole) == EIO) }
        for at in 0...3 { #expect(it.run(.read, at << 20, whole) == EIO) }
        #expect(try images.bytes("d.raw").count == 2 << 20 | 512)
    }

    @Test("Without space a write says so, nothing else is lost, and it goes on when there is some again")
    func full() throws {
        let place = try SmallTmpfs.make(megabytes: 8)
        // Which of the two threads meets the end is chance.
        for _ in 0..<20 { try fill(Images(in: place.path)) }
    }

    private func fill(_ images: Images) throws {
        try images.run("qemu-img create -f qcow2 a.img 64M && dd if=/dev/zero of=ballast bs=1M count=3")
        let it = try pair(images.open("a.img", writable: true, format: .qcow2))
        let whole = [0..<1 << 20]
        func write(_ at: Int) -> Int32 {
            memset(it.memory.pointer, Int32(at + 1), 1 << 20)
            return it.run(.write, at << 20, whole)
        }
        var done = 0
        while done < 16, write(done) == 0 { done += 1 }
        #expect((2...5).contains(done))
        #expect(write(done) == ENOSPC)
        try images.run("rm ballast")
        #expect(write(done) == 0)
        #expect(write(done + 1) == 0)
        for at in 0...done + 1 {
            #expect(it.run(.read, at << 20, whole) == 0)
            #expect(it.bytes(whole).allSatisfy { $0 == UInt8(at + 1) })
        }
        try it.chain.closeAndUnlock()
        try images.run("qemu-img check -f qcow2 a.img")
    }
}

@Suite struct HelperBackoffTests {
    @Test("One that does nothing is asked less and less often, and as before once it helps")
    func late() {
        var backoff = HelperBackoff()
        var asked = 0
        for now in stride(from: Int64(1), to: 20_000_000_000, by: 1_000_000) where backoff.shouldShare(at: now) {
            asked += 1
            backoff.record(0, waited: 0, at: now)
        }
        #expect((40...80).contains(asked))
        backoff.record(3, waited: 1000, at: 20_000_000_000)
        for now in Int64(20_000_000_001)...20_000_000_004 {
            #expect(backoff.shouldShare(at: now))
            backoff.record(0, waited: 0, at: now)
        }
        #expect(!backoff.shouldShare(at: 20_000_000_005))
        #expect(backoff.shouldShare(at: 20_000_000_004 + HelperBackoff.shortest))
    }

    @Test("One that is waited for too long is left alone at once")
    func stopped() {
        var backoff = HelperBackoff()
        backoff.record(1, waited: HelperBackoff.tooLong, at: 1)
        #expect(!backoff.shouldShare(at: 2))
    }
}
