// A disk that grows or shrinks, held against every crash: the storage's log is cut anywhere, what was not synced is
// lost, kept or torn, and what is left must be an image without corruption, of the old size or the new, with every
// byte of the part that both have.
import DiskTypes
import Foundation
import TestKit
import Testing

@testable import QCOW2

@Suite("A resize", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct ResizeTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let shape: WriterShape
        let newSize: Int
        var testDescription: String { "\(shape.name) to \(newSize)" }
    }

    static let shapes: [WriterShape] = [
        WriterShape(name: "512", options: ["cluster_size=512"], size: 64 << 10, before: ["write -P 7 0 64k"]),
        WriterShape(
            name: "512, 64 bits", options: ["cluster_size=512", "refcount_bits=64"], size: 256 << 10,
            before: ["write -P 7 8k 100k"]),
        WriterShape(
            name: "512, snapshot", options: ["cluster_size=512"], size: 128 << 10, before: ["write -P 7 0 128k"],
            snapshot: true),
        WriterShape(name: "4k, backing", options: ["cluster_size=4k"], size: 256 << 10, hasBacking: true),
        WriterShape(
            name: "extended", options: ["extended_l2=on,cluster_size=16k"], size: 512 << 10,
            before: ["write -P 7 100k 300k"]),
        WriterShape(
            name: "version 2", options: ["cluster_size=512", "compat=0.10"], size: 64 << 10,
            before: ["write -P 7 0 64k"]),
    ]
    static let cases = shapes.flatMap { shape in
        [shape.size * 40, shape.size + 512, shape.size / 2, 512].map { Case(shape: shape, newSize: $0) }
    }

    /// The steps that a file goes through, but for its last cluster's tail.
    static func resize(
        _ storage: MemoryStorage, to newSize: UInt64, hidesBacking: Bool = false, allocates: Bool = false
    )
        throws
    {
        let image = try QCOW2Image(reading: storage)
        try ImageResize.judge(image, to: newSize)
        let none: MemoryStorage? = nil
        if newSize < image.header.size {
            try ImageResize.giveUpBehind(storage, data: none, newSize)
        } else {
            try ImageResize.growTables(storage, to: newSize)
            try ImageResize.clearBehind(storage, data: none, to: newSize, hidesBacking: hidesBacking)
            if allocates {
                try ImageResize.allocateBehind(storage, data: none, to: newSize) {
                    (host, length, isFresh) throws(ImageError) in
                    if !isFresh { try storage.write(at: host, [UInt8](repeating: 0, count: Int(length))) }
                }
            }
        }
        try ImageResize.setSize(storage, to: newSize)
    }

    @Test("the common part stays, the new one is zeros, and the image is clean", arguments: cases)
    func works(one: Case) throws {
        try Scratch.withFolder { folder in
            let made = try one.shape.make(in: folder)
            for allocates in [false, true] where !allocates || one.newSize > one.shape.size {
                let storage = MemoryStorage(made.image)
                try Self.resize(storage, to: UInt64(one.newSize), allocates: allocates)
                let report = try ImageCheck.check(storage)
                #expect(report.verdict == .clean, "\(report.findings.first?.line ?? "")")
                let disk = try OfflineDisk(storage, backing: made.backing)
                try #require(disk.size == one.newSize)
                let common = min(one.newSize, made.guest.count)
                #expect(try disk.read(0, common) == Array(made.guest[..<common]))
                let rest = try disk.read(common, one.newSize - common)
                #expect(rest == [UInt8](repeating: 0, count: rest.count))
                let path = "\(folder)/image.qcow2"
                try Data(storage.bytes).write(to: URL(filePath: path))
                try Command(["qemu-img", "check", "-q", "-f", "qcow2", path]).succeed()
            }
        }
    }

    @Test("a crash leaves the old disk or the new one", arguments: cases)
    func crash(one: Case) throws {
        try Scratch.withFolder { folder in
            let seed = WriterModelTests.seed
            var dice = SeededRandom(seed)
            let made = try one.shape.make(in: folder)
            let storage = MemoryStorage(made.image, recording: true)
            try Self.resize(storage, to: UInt64(one.newSize), allocates: one.newSize > one.shape.size)
            let steps = storage.steps
            let common = min(one.newSize, made.guest.count)
            for state in 0..<CrashTests.states / 10 {
                let (bytes, step) = Self.cut(made.image, steps, length: storage.bytes.count, &dice)
                let place = "seed \(seed), state \(state), after step \(step)"
                let report = try ImageCheck.check(MemorySource(bytes))
                try #require(report.verdict != .corrupt, "\(place): \(report.findings.first?.line ?? "")")
                let disk = try OfflineDisk(MemoryStorage(bytes), backing: made.backing)
                try #require(disk.size == one.newSize || disk.size == one.shape.size, "\(place): \(disk.size)")
                let isSame = try disk.read(0, common) == Array(made.guest[..<common])
                try #require(isSame, "\(place): the part that stays has changed")
                if disk.size > common, disk.size == one.newSize {
                    let rest = try disk.read(common, disk.size - common)
                    let isZero = rest == [UInt8](repeating: 0, count: rest.count)
                    try #require(isZero, "\(place): the new part is not zeros")
                }
            }
        }
    }

    /// What a crash may leave after some step. `length`: what the file was made long before it was mapped; the log has
    /// writes only.
    private static func cut(
        _ start: [UInt8], _ steps: [MemoryStorage.Step], length: Int, _ dice: inout SeededRandom
    ) -> (bytes: [UInt8], step: Int) {
        let step = dice.below(steps.count + 1)
        let sync = steps[..<step].lastIndex(of: .sync).map { $0 + 1 } ?? 0
        var end = max(start.count, length)
        for case .write(let host, let bytes) in steps { end = max(end, Int(host.bytes) + bytes.count) }
        var bytes = start + [UInt8](repeating: 0, count: (end + 8191) / 4096 * 4096 - start.count)
        let mood = dice.below(4)
        for (i, one) in steps[..<step].enumerated() {
            guard case .write(let host, let new) = one else { continue }
            let at = Int(host.bytes)
            if i < sync || mood == 0 || mood == 1 && dice.below(2) == 0 {
                bytes.replaceSubrange(at..<at + new.count, with: new)
            } else if mood > 1 {
                var from = at
                while from < at + new.count {
                    let to = min((from / 512 + 1) * 512, at + new.count)
                    if dice.below(2) == 0 { bytes.replaceSubrange(from..<to, with: new[from - at..<to - at]) }
                    from = to
                }
            }
        }
        return (bytes, step)
    }

    @Test("what an earlier life left behind the end does not come back")
    func leftovers() throws {
        try Scratch.withFolder { folder in
            let shape = WriterShape(
                name: "4k", options: ["cluster_size=4k"], size: 256 << 10, before: ["write -P 7 0 256k"])
            let storage = MemoryStorage(try shape.make(in: folder).image)
            // A disk whose header alone was made smaller.
            try storage.write(at: HostOffset(24), bigEndian(UInt64(64 << 10)))
            try Self.resize(storage, to: 256 << 10)
            let disk = try OfflineDisk(storage)
            let rest = try disk.read(64 << 10, 192 << 10)
            #expect(rest == [UInt8](repeating: 0, count: 192 << 10))
            #expect(try ImageCheck.check(storage).verdict == .clean)
        }
    }

    @Test("a longer backing file does not show through")
    func backing() throws {
        try Scratch.withFolder { folder in
            let shape = WriterShape(name: "4k", options: ["cluster_size=4k"], size: 256 << 10, hasBacking: true)
            let made = try shape.make(in: folder)
            let backing = [UInt8](repeating: 9, count: 1 << 20)
            let storage = MemoryStorage(made.image)
            try Self.resize(storage, to: 512 << 10, hidesBacking: true)
            let disk = try OfflineDisk(storage, backing: backing)
            let rest = try disk.read(256 << 10, 256 << 10)
            #expect(rest == [UInt8](repeating: 0, count: 256 << 10))
        }
    }

    @Test("a full storage leaves the image as it was, but for leaks")
    func full() throws {
        try Scratch.withFolder { folder in
            let shape = WriterShape(
                name: "512", options: ["cluster_size=512"], size: 64 << 10, before: ["write -P 7 0 64k"])
            let made = try shape.make(in: folder)
            for limit in stride(from: made.image.count, to: made.image.count + 64 << 10, by: 1536) {
                let storage = MemoryStorage(made.image, limit: limit)
                try? Self.resize(storage, to: 64 << 20, allocates: false)
                #expect(try ImageCheck.check(storage).verdict != .corrupt)
                let disk = try OfflineDisk(storage)
                #expect(try disk.read(0, 64 << 10) == made.guest)
            }
        }
    }
}
