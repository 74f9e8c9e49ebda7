// An image is cut while it is written. A write in place would make the file longer again, and what was lost would read
// as zeros: from the moment that the engine can notice, the image is an error.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Testing

@testable import BlockEngine

@Suite("An image that is cut under its writer", .enabled(if: hasQemuImg, "needs qemu-img"))
struct CutWriterTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let format: ImageFormat
        let place: String
        let seesPages: Bool
        var testDescription: String { "\(name) in \(place), \(seesPages ? "mapped" : "by the ring")" }
    }
    static let cases = ["d.raw", "a.qcow2", "e.qcow2", "x.qcow2"].flatMap { name in
        ["/dev/shm", "/tmp"].flatMap { place in
            [true, false].map {
                Case(name: name, format: name == "d.raw" ? .raw : .qcow2, place: place, seesPages: $0)
            }
        }
    }
    private static let size = 8 << 20
    private static let lost = 5 << 20

    private func make(_ one: Case) throws -> Images {
        let images = try Images(in: one.place)
        try images.write("d.raw", [UInt8](repeating: 7, count: Self.size))
        switch one.name {
        case "a.qcow2": try images.run("qemu-img convert -f raw -O qcow2 d.raw a.qcow2")
        case "e.qcow2": try images.run("qemu-img convert -f raw -O qcow2 -o extended_l2=on d.raw e.qcow2")
        case "x.qcow2": try images.run("qemu-img convert -f raw -O qcow2 -o data_file=data d.raw x.qcow2")
        default: break
        }
        return images
    }

    private func writes(_ it: GuestHarness, _ at: Int, _ byte: UInt8) -> Int32 {
        it.write(at, [UInt8](repeating: byte, count: 4096))
    }

    @Test("No read gives zeros for what was lost once a flush has failed, and every flush fails", arguments: cases)
    func inPlace(one: Case) throws {
        let images = try make(one)
        let chain = try images.open(one.name, direct: false, writable: true, format: one.format)
        let it = try GuestHarness(chain, seesPages: one.seesPages)
        for at in stride(from: 0, to: Self.size, by: 1 << 20) { #expect(writes(it, at, 8) == 0) }
        for _ in 0..<2 { #expect(it.read(0, 1 << 20).error == 0) }
        #expect(it.run(.flush, 0, []) == 0)
        #expect(truncate(images.path(one.name == "x.qcow2" ? "data" : one.name), 2 << 20) == 0)
        // In place, beyond the cut: the file may be longer again afterwards.
        _ = writes(it, Self.lost + (1 << 20), 9)
        #expect(it.run(.flush, 0, []) == EIO)
        for at in [0, 1 << 20, 3 << 20, Self.lost, Self.lost + (1 << 20)] {
            #expect(it.read(at, 4096).error == EIO, "read at \(at)")
            #expect(writes(it, at, 10) == EIO, "write at \(at)")
        }
        #expect(it.run(.flush, 0, []) == EIO)
        #expect(chain.wasCut)
        if one.format == .qcow2 { #expect(throws: ImageError.self) { try chain.close() } }
    }

    @Test("A write of the very end does not give a file that was cut its length back", arguments: cases)
    func end(one: Case) throws {
        let images = try make(one)
        let chain = try images.open(one.name, direct: false, writable: true, format: one.format)
        let it = try GuestHarness(chain, seesPages: one.seesPages)
        for at in stride(from: 0, to: Self.size, by: 1 << 20) { #expect(it.read(at, 4096).error == 0) }
        let file = one.name == "x.qcow2" ? "data" : one.name
        let length = try images.bytes(file).count
        #expect(truncate(images.path(file), 2 << 20) == 0)
        // Backwards, so that whichever block is the file's last one comes before all others.
        for at in stride(from: Self.size - 4096, through: Self.size - (128 << 10), by: -4096) { _ = writes(it, at, 9) }
        #expect(try images.bytes(file).count < length)
        #expect(it.run(.flush, 0, []) == EIO)
        #expect(it.read(Self.size / 2, 4096).error == EIO)
        if one.format == .qcow2 { #expect(throws: ImageError.self) { try chain.close() } }
    }

    @Test("A write that needs a cluster finds the cut", arguments: cases.filter { $0.name == "a.qcow2" })
    func allocating(one: Case) throws {
        let images = try Images(in: one.place)
        try images.run("qemu-img create -f qcow2 a.qcow2 1G")
        let chain = try images.open(one.name, direct: false, writable: true)
        let it = try GuestHarness(chain, seesPages: one.seesPages)
        for at in 0..<64 { #expect(writes(it, at << 16, 8) == 0) }
        #expect(it.run(.flush, 0, []) == 0)
        #expect(truncate(images.path(one.name), 1 << 20) == 0)
        var failed = 0
        // More than one step of the file's growth.
        for at in 64..<2048 where failed < 3 && writes(it, at << 16, 9) != 0 { failed += 1 }
        #expect(failed == 3)
        #expect(it.run(.flush, 0, []) == EIO)
        for at in [0, 30, 63] { #expect(it.read(at << 16, 4096).error == EIO) }
        #expect(throws: ImageError.self) { try chain.close() }
    }
}
