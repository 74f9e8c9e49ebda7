// Disks fail and fill up. Every write and every sync of a run fails once, in turn; the error is reported, nothing
// else is lost, the image stays without errors, and work goes on.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

/// A storage of which one step fails.
private final class FailingStorage: ResizableStorage {
    let memory: MemoryStorage
    var steps = 0
    var failing = -1
    init(_ bytes: [UInt8]) { memory = MemoryStorage(bytes) }

    private func step(_ what: String) throws(ImageError) {
        steps += 1
        if steps == failing { throw ImageError(.system, "cannot \(what): planned") }
    }
    var length: UInt64 { memory.length }
    func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        try memory.read(at: offset, count: count)
    }
    func write(at offset: HostOffset, _ bytes: [UInt8]) throws(ImageError) {
        try step("write")
        try memory.write(at: offset, bytes)
    }
    func sync() throws(ImageError) { try step("sync") }
    var canGrow: Bool { true }
    func truncate(to newLength: UInt64) throws(ImageError) {
        try step("grow")
        try memory.truncate(to: newLength)
    }
    func discard(at offset: HostOffset, length: UInt64) {}
}

@Suite("A write or sync that fails", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct WriterFaultTests {
    @Test(arguments: CrashTests.shapes)
    func costsOnlyWhatMetIt(shape: WriterShape) throws {
        try Scratch.withFolder { folder in
            let made = try shape.make(in: folder)
            var failing = 1
            var stride = 1
            while true {
                let storage = FailingStorage(made.image)
                storage.failing = failing
                let disk = try OfflineDisk(storage, backing: made.backing)
                var dice = SeededRandom(11)
                var model = made.guest
                var unsure = Set<Int>()
                for number in 0..<40 {
                    let at = dice.below(disk.size / 512)
                    let count = min(disk.size / 512 - at, 1 + dice.below(1 << dice.below(7)))
                    let kind = dice.below(8)
                    let byte = UInt8(1 + number)
                    do {
                        if kind == 0 { try disk.flush() }
                        if kind == 1 { try disk.zero(at * 512, count * 512, .unmap) }
                        if kind > 1 { try disk.write(at * 512, [UInt8](repeating: byte, count: count * 512)) }
                        guard kind > 0 else { continue }
                        unsure.subtract(at..<at + count)
                    } catch { if kind > 0 { unsure.formUnion(at..<at + count) } }
                    guard kind > 0 else { continue }
                    let new: UInt8 = kind == 1 ? 0 : byte
                    model.replaceSubrange(at * 512..<(at + count) * 512, with: repeatElement(new, count: count * 512))
                }
                // Once more where it failed while it was closed.
                do { try disk.close() } catch { try disk.close() }
                let now = try disk.read(0, disk.size)
                for sector in 0..<disk.size / 512 where !unsure.contains(sector) {
                    try #require(now[sector * 512] == model[sector * 512], "step \(failing) fails: sector \(sector)")
                }
                let report = try ImageCheck.check(storage.memory)
                try #require(
                    report.verdict == .clean,
                    "step \(failing) of \(storage.steps) fails: \(report.findings.map(\.line))")
                if failing > storage.steps { return }
                // The first sixty each, then ever fewer.
                if failing > 60 { stride += 2 }
                failing += stride
            }
        }
    }

    /// What was cut off an image stays an error when the file grows again.
    @Test func aTruncatedClusterNeverReadsAsZeros() throws {
        try Scratch.withFolder { folder in
            let shape = WriterShape(name: "cut", size: 4 << 20, before: ["write -P 7 0 512k"])
            let whole = try shape.make(in: folder).image
            let disk = try OfflineDisk(MemoryStorage(Array(whole.dropLast(100 << 10))))
            try disk.write(2 << 20, [UInt8](repeating: 9, count: 256 << 10))
            try disk.flush()
            #expect(disk.storage.bytes.count > whole.count)
            #expect(try disk.read(0, 64 << 10) == [UInt8](repeating: 7, count: 64 << 10))
            #expect(try disk.read(2 << 20, 256 << 10) == [UInt8](repeating: 9, count: 256 << 10))
            #expect(throws: DiskError.self) { try disk.read(448 << 10, 512) }
        }
    }

    /// QEMU's overlap check, before anything is written.
    @Test func anEntryThatNamesATableIsNotWrittenThrough() throws {
        try Scratch.withFolder { folder in
            let shape = WriterShape(name: "overlap", size: 1 << 20, before: ["write -P 7 0 128k"])
            var image = try shape.make(in: folder).image
            // The second cluster's entry names the refcount block (cluster 2 of a new image), with COPIED.
            let l1 = Int(image[40..<48].reduce(0) { $0 << 8 | UInt64($1) })
            let l2 = Int(image[l1..<l1 + 8].reduce(0) { $0 << 8 | UInt64($1) } & 0x00ff_ffff_ffff_fe00)
            image.replaceSubrange(l2 + 8..<l2 + 16, with: [0x80, 0, 0, 0, 0, 2, 0, 0])
            let disk = try OfflineDisk(MemoryStorage(image))
            #expect(throws: DiskError.self) { try disk.write(64 << 10, [UInt8](repeating: 1, count: 512)) }
            #expect(Array(disk.storage.bytes[..<image.count]) == image)
            #expect(try disk.read(0, 512) == [UInt8](repeating: 7, count: 512))
        }
    }
}
