// Transfers by way of the page cache's own pages: the same bytes, the same errors, and nothing lost
// where a file ends, is cut, or leaves memory.

import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Testing

@testable import BlockEngine

struct MappedTests {
    @Test("The second read of a page, and a write to it, go by the mapping, and QEMU sees the same bytes")
    func usesPages() throws {
        let images = try Images(in: "/dev/shm")
        var truth = try images.disk("d.raw", size: 4 << 20)
        try images.run("qemu-img convert -S 0 -f raw -O qcow2 d.raw a.qcow2")
        let it = try GuestHarness(images.open("a.qcow2", writable: true))
        for round in 0..<2 {
            for at in stride(from: 0, to: 4 << 20, by: 64 << 10) {
                let read = it.read(at, 12_288)
                #expect(read.error == 0 && read.bytes == Array(truth[at..<at + 12_288]))
            }
            #expect(it.mapped == UInt64(round * 64))
        }
        for at in stride(from: 512, to: 4 << 20, by: 256 << 10) {
            let bytes = [UInt8](repeating: UInt8(at >> 18 &+ 1), count: 8192)
            #expect(it.write(at, bytes) == 0)
            truth.replaceSubrange(at..<at + 8192, with: bytes)
        }
        #expect(it.mapped >= 64 + 16)
        #expect(it.read(0, 1 << 20).bytes == Array(truth[..<(1 << 20)]))
        try it.chain.closeAndUnlock()
        #expect(try images.truth("a.qcow2") == truth)
    }

    @Test("Memory that does not lie in sectors is written by the file, whole")
    func oddMemory() throws {
        let images = try Images(in: "/dev/shm")
        try images.write("d.raw", [UInt8](repeating: 7, count: 1 << 20))
        let it = try GuestHarness(images.open("d.raw", writable: true, format: .raw))
        #expect(it.write(0, [UInt8](repeating: 1, count: 8192)) == 0)
        let before = it.mapped
        #expect(it.write(4096, [UInt8](repeating: 2, count: 8192), skew: 100) == 0)
        #expect(it.mapped == before)
        #expect(it.read(0, 16_384).bytes == [1, 2, 2, 7].flatMap { [UInt8](repeating: $0, count: 4096) })
    }

    @Test(
        "What is written to the last sectors of a file that ends inside a page is there",
        arguments: ["/dev/shm", "/tmp"])
    func oddEnd(place: String) throws {
        let images = try Images(in: place)
        try images.write("d.raw", [UInt8](repeating: 7, count: 3 * 4096 + 512))
        let it = try GuestHarness(images.open("d.raw", direct: false, writable: true, format: .raw))
        for round in 1...3 {
            #expect(it.read(3 * 4096, 512).bytes == [UInt8](repeating: round == 1 ? 7 : UInt8(round - 1), count: 512))
            #expect(it.write(2 * 4096, [UInt8](repeating: UInt8(round), count: 4608)) == 0)
        }
        try it.chain.closeAndUnlock()
        #expect(try images.bytes("d.raw")[(2 * 4096)...].allSatisfy { $0 == 3 })
    }

    @Test(
        "A file that is cut beneath costs the requests that meet it an error, and no other",
        arguments: ["/dev/shm", "/tmp"])
    func cut(place: String) throws {
        let images = try Images(in: place)
        try images.write("d.raw", [UInt8](repeating: 7, count: 1 << 20))
        let it = try GuestHarness(images.open("d.raw", direct: false, format: .raw))
        for _ in 0..<2 { #expect(it.read(0, 1 << 20).error == 0) }
        #expect(truncate(images.path("d.raw"), 64 << 10) == 0)
        for _ in 0..<3 {
            #expect(it.read(128 << 10, 4096).error == EIO)
            #expect(it.read(128 << 10, 64 << 10).error == EIO)
            #expect(it.read(0, 64 << 10).bytes == [UInt8](repeating: 7, count: 64 << 10))
        }
    }

    @Test(
        "A file that is cut inside a page gives an error there, not the zeros that the kernel fills the page with",
        arguments: ["/dev/shm", "/tmp"])
    func cutInsideAPage(place: String) throws {
        for cut in [66_000, (64 << 10) + 1, (68 << 10) - 1] {
            let images = try Images(in: place)
            try images.write("d.raw", [UInt8](repeating: 7, count: 1 << 20))
            let it = try GuestHarness(images.open("d.raw", direct: false, format: .raw))
            for _ in 0..<2 { #expect(it.read(0, 1 << 20).error == 0) }
            for at in 0..<32 { #expect(it.read(at * 4096, 4096).error == 0) }
            #expect(truncate(images.path("d.raw"), off_t(cut)) == 0)
            for length in [4096, 512, 64 << 10] {
                #expect(it.read((68 << 10) - length, length).error == EIO, "\(length) bytes of a file of \(cut)")
            }
            #expect(it.read(0, 64 << 10).bytes == [UInt8](repeating: 7, count: 64 << 10))
        }
    }

    @Test("Data that ends in zeros is read by the mapping all the same")
    func zeroTails() throws {
        let images = try Images(in: "/dev/shm")
        try images.write("d.raw", [UInt8](repeating: 0, count: 1 << 20))
        let it = try GuestHarness(images.open("d.raw", format: .raw))
        for _ in 0..<2 { #expect(it.read(0, 64 << 10).error == 0) }
        let before = it.mapped
        for at in 0..<16 { #expect(it.read(at * 4096, 4096).bytes == [UInt8](repeating: 0, count: 4096)) }
        #expect(it.mapped == before + 16)
    }

    @Test("Zeros that are written over known pages are read, and written over")
    func zeros() throws {
        let images = try Images(in: "/dev/shm")
        try images.write("d.raw", [UInt8](repeating: 7, count: 1 << 20))
        let it = try GuestHarness(images.open("d.raw", writable: true, format: .raw))
        for round in 1...3 {
            _ = it.read(0, 1 << 20)
            let zeroes = BlockRequest(
                .writeZeroes, slot: 0, guest: GuestOffset(8192), length: 65536, mayUnmap: round == 2)
            it.harness.engine.submit(zeroes)
            #expect(it.harness.wait()?.error == 0)
            #expect(it.read(4096, 65536 + 8192).bytes[4096..<4096 + 65536].allSatisfy { $0 == 0 })
            #expect(it.write(8192, [UInt8](repeating: UInt8(round), count: 65536)) == 0)
            #expect(it.read(8192, 65536).bytes.allSatisfy { $0 == UInt8(round) })
        }
    }

    @Test("Pages that have left memory are fetched, and mappings are left alone for a while then")
    func evicted() throws {
        let images = try Images()
        let truth = try images.disk("d.raw", size: 4 << 20)
        try images.run("sync d.raw")
        let chain = try images.open("d.raw", direct: false, format: .raw)
        let it = try GuestHarness(chain)
        guard it.harness.engine.seesPages, let window = chain.files[0].pages(room: 0) else {
            try Test.cancel("/tmp is neither ext4 nor XFS: its pages are not mapped")
        }
        // The kernel has thrown them out since they were seen.
        #expect(posix_fadvise(chain.files[0].fd, 0, 0, POSIX_FADV_DONTNEED) == 0)
        window.wrote(0, 4 << 20)
        for at in stride(from: 0, to: 4 << 20, by: 4096) {
            let read = it.read(at, 4096)
            #expect(read.error == 0 && read.bytes == Array(truth[at..<at + 4096]))
        }
        #expect(it.mapped < 256, "the engine went on touching what was not there")
    }
}

@Suite struct ResidencyProbeBackoffTests {
    @Test("Questions answered by no are asked less and less often, and a single yes ends that")
    func backsOff() {
        var backoff = ResidencyProbeBackoff()
        var asked = 0
        for _ in 0..<6400 where backoff.shouldProbe() {
            asked += 1
            backoff.record(false)
        }
        #expect((100...110).contains(asked))
        while !backoff.shouldProbe() {}
        backoff.record(true)
        for _ in 0..<10 {
            let tries = backoff.shouldProbe()
            #expect(tries)
            backoff.record(true)
        }
        backoff.record(false)
        let tries = backoff.shouldProbe()
        #expect(!tries)
    }
}
