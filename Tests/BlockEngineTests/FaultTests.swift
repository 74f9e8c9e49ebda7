// Files end early, kernels answer in parts, streams are broken. Each costs at most the requests
// that touch it, and never a wrong byte.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import TestKit
import Testing

@Suite(.enabled(if: hasQemuImg, "needs qemu-img")) struct FaultTests {
    static let size = 4 << 20

    private func plain(_ images: Images) throws -> [UInt8] {
        try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert -S 0 -f raw -O qcow2 a.raw a.qcow2")
        return try images.bytes("a.raw")
    }

    private func compressed(_ images: Images, _ method: String = "zlib") throws -> [UInt8] {
        try images.disk("a.raw", size: Self.size)
        try images.run("qemu-img convert -c -f raw -O qcow2 -o compression_type=\(method) a.raw a.qcow2")
        return try images.bytes("a.raw")
    }

    /// The extents of the image, by guest position.
    private func extents(_ chain: ImageChain) -> [Extent] {
        var walker = ExtentWalker(chain)
        var found: [Extent] = []
        while let step = walker.next() { if case .extent(let extent) = step { found.append(extent) } }
        return found
    }

    // MARK: files that end

    @Test(arguments: [false, true]) func dataBehindTheEndOfATruncatedFileIsAnError(direct: Bool) throws {
        let images = try Images()
        _ = try plain(images)
        let chain = try images.open("a.qcow2", direct: direct)
        let harness = try EngineHarness(chain)
        #expect(harness.read(0, Self.size).error == 0)
        // The image shrinks under an open chain: no map can know.
        #expect(truncate(images.path("a.qcow2"), 1 << 20) == 0)
        #expect(harness.read(3 << 20, 4096).error == EIO)
        #expect(harness.read((3 << 20) + 5, 100).error == EIO)
        #expect(harness.read(0, 4096).error == 0)
    }

    @Test(arguments: [false, true]) func aFileThatEndsInsideARequestFailsIt(direct: Bool) throws {
        let images = try Images()
        let truth = try plain(images)
        let chain = try images.open("a.qcow2", direct: direct)
        guard let first = extents(chain).first(where: { $0.kind == .data && $0.length >= 65536 }) else {
            throw TestFailure("no data")
        }
        let harness = try EngineHarness(chain)
        let guest = Int(first.guest.bytes)
        for cut in [65535, 5000, 4096, 4095, 512, 511, 1] {
            #expect(truncate(images.path("a.qcow2"), off_t(first.host.bytes) + off_t(cut)) == 0)
            #expect(harness.read(guest, 65536).error == EIO, "cut at \(cut)")
            #expect(harness.read(guest + 1, 65535).error == EIO, "cut at \(cut)")
            let whole = harness.read(guest, cut)
            #expect(whole.error == 0 && whole.bytes == Array(truth[guest..<(guest + cut)]), "cut at \(cut)")
        }
    }

    @Test func aTableBehindTheEndOfTheFileIsDamage() throws {
        let images = try Images()
        _ = try plain(images)
        let chain = try images.open("a.qcow2")
        #expect(truncate(images.path("a.qcow2"), 65536 * 2) == 0)
        let harness = try EngineHarness(chain)
        let result = harness.read(0, 4096)
        #expect(result.error == EIO)
        #expect(result.damage != nil)
    }

    // MARK: kernels that answer in parts

    @Test(arguments: [false, true]) func shortReadsAreCompleted(direct: Bool) throws {
        let images = try Images()
        let truth = try plain(images)
        let harness = try EngineHarness(try images.open("a.qcow2", direct: direct), maxIovecs: 8)
        var random = SeededRandom(8)
        harness.alterResult = { _, result in
            guard result > 4096, random.below(3) != 0 else { return result }
            let blocks = 1 + random.below(Int(result) / 4096 - 1)
            return Int32(direct ? blocks * 4096 : 1 + random.below(Int(result)))
        }
        #expect(harness.compare(with: truth, count: 1000, seed: 21, anyRead(Self.size, iovecs: 8)) == nil)
        #expect(harness.engine.statistics.retries > 0)
    }

    @Test(arguments: [EAGAIN, EINTR]) func readsThatAreRefusedForNowAreRepeated(error: Int32) throws {
        let images = try Images()
        let truth = try compressed(images)
        let harness = try EngineHarness(try images.open("a.qcow2", l2CacheLimit: 1))
        var random = SeededRandom(9)
        harness.alterResult = { _, result in random.below(3) == 0 ? 0 - error : result }
        #expect(harness.compare(with: truth, count: 300, seed: 22, anyRead(Self.size)) == nil)
    }

    @Test func theKernelsErrorIsTheRequestsError() throws {
        let images = try Images()
        _ = try plain(images)
        let harness = try EngineHarness(try images.open("a.qcow2"))
        #expect(harness.read(0, 4096).error == 0)
        harness.alterResult = { _, _ in 0 - ENOSPC }
        #expect(harness.read(8192, 65536).error == ENOSPC)
        harness.alterResult = { _, result in result }
        #expect(harness.read(8192, 65536).error == 0)
    }

    @Test func aTableThatCannotBeReadFailsItsRequestsAndIsTriedAgainLater() throws {
        let images = try Images()
        let truth = try plain(images)
        let harness = try EngineHarness(try images.open("a.qcow2"))
        harness.alterResult = { _, _ in 0 - EIO }
        let failed = harness.read(0, 4096)
        #expect(failed.error == EIO)
        #expect(failed.damage?.reason == .tableUnreadable)
        harness.alterResult = { _, result in result }
        #expect(harness.read(0, 4096).bytes == Array(truth[..<4096]))
    }

    // MARK: streams that are broken

    @Test(arguments: ["zlib", "zstd"]) func aBrokenStreamHurtsItsClusterOnly(method: String) throws {
        let images = try Images()
        let truth = try compressed(images, method)
        let victims = extents(try images.open("a.qcow2")).filter { $0.kind == .compressed && $0.hostLength > 8192 }
        guard victims.count > 2 else { throw TestFailure("nothing compressed") }
        let victim = victims[1]
        try images.write("a.qcow2", [UInt8](repeating: 0xff, count: 64), at: Int(victim.host.bytes), truncate: false)
        let harness = try EngineHarness(try images.open("a.qcow2"))
        let at = Int(victim.guest.bytes)
        #expect(harness.read(at, 4096).error == EIO)
        #expect(harness.read(at - 4096, 8192).error == EIO)
        for good in stride(from: 0, to: Self.size, by: 65536) where good != at {
            let result = harness.read(good, 65536)
            #expect(result.error == 0 && result.bytes == Array(truth[good..<(good + 65536)]))
        }
        #expect(harness.engine.inFlight == 0)
    }

    @Test func aCompressedClusterMayEndWithTheFile() throws {
        let images = try Images()
        let truth = try compressed(images)
        guard
            let last = extents(try images.open("a.qcow2")).filter({ $0.kind == .compressed })
                .max(by: { $0.host < $1.host })
        else { throw TestFailure("nothing compressed") }
        // The stream ends somewhere in its last sector; the file may end right there.
        let end = Int(last.host.bytes) + Int(last.hostLength)
        let file = try images.bytes("a.qcow2")
        let used = (file[..<min(end, file.count)].lastIndex { $0 != 0 } ?? 0) + 1
        #expect(truncate(images.path("a.qcow2"), off_t(used + 8)) == 0)
        let harness = try EngineHarness(try images.open("a.qcow2"))
        let at = Int(last.guest.bytes)
        let result = harness.read(at, 4096)
        #expect(result.error == 0 && result.bytes == Array(truth[at..<(at + 4096)]))
    }

    // MARK: askers that are wrong

    @Test func aReadBeyondTheDiskIsRefused() throws {
        let images = try Images()
        _ = try plain(images)
        let harness = try EngineHarness(try images.open("a.qcow2"))
        #expect(harness.read(Self.size - 512, 1024).error == EINVAL)
        #expect(harness.read(Self.size, 1).error == EINVAL)
        #expect(harness.read(Int.max, 1).error == EINVAL)
        #expect(harness.read(Self.size, 0).error == 0)
    }

    @Test func aListOfMemoryShorterThanTheReadIsRefused() throws {
        let images = try Images()
        _ = try plain(images)
        let harness = try EngineHarness(try images.open("a.qcow2"), maxIovecs: 4)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 8192, alignment: 4096)
        defer { memory.deallocate() }
        let list = [iovec(iov_base: memory, iov_len: 1024), iovec(iov_base: memory + 1024, iov_len: 1024)]
        harness.engine.submitRead(
            slot: 3, guest: GuestOffset(0), iovecs: harness.kept(list, slot: 3), count: 2, length: 4096)
        let finished = harness.wait()
        #expect(finished?.slot == 3 && finished?.error == EINVAL)
        let many = [iovec](repeating: iovec(iov_base: memory, iov_len: 1024), count: 5)
        harness.engine.submitRead(
            slot: 3, guest: GuestOffset(0), iovecs: harness.kept(many, slot: 3), count: 5, length: 4096)
        #expect(harness.wait()?.error == EINVAL)
    }
}
