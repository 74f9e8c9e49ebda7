// The write order, held against every crash: the storage's log is cut anywhere, writes since the last sync are lost,
// kept or torn at random, and what is left must be an image without corruption in which everything flushed is there,
// and every other sector is old or new: never another cluster's.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

@Suite("A crash", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct CrashTests {
    /// Of each shape. More when hunting: QBLK_CRASH_STATES=20000 and a release build.
    static let states = ProcessInfo.processInfo.environment["QBLK_CRASH_STATES"].flatMap { Int($0) } ?? 2500
    static let shapes: [WriterShape] = [
        WriterShape(name: "512", options: ["cluster_size=512"], size: 128 << 10),
        WriterShape(name: "512, 64 bits", options: ["cluster_size=512,refcount_bits=64"], size: 256 << 10),
        WriterShape(name: "4k", options: ["cluster_size=4k"], size: 256 << 10),
        WriterShape(name: "4k, backing", options: ["cluster_size=4k"], size: 256 << 10, hasBacking: true),
        WriterShape(
            name: "4k, snapshot", options: ["cluster_size=4k"], size: 256 << 10, before: ["write -P 7 0 128k"],
            snapshot: true),
        WriterShape(name: "extended", options: ["extended_l2=on,cluster_size=16k"], size: 512 << 10),
        WriterShape(
            name: "extended, backing", options: ["extended_l2=on,cluster_size=16k"], size: 512 << 10, hasBacking: true),
        WriterShape(
            name: "version 2, snapshot", options: ["cluster_size=4k,compat=0.10"], size: 256 << 10,
            before: ["write -P 7 0 128k"], snapshot: true),
    ]

    @Test(arguments: shapes)
    func losesNothingThatWasFlushed(shape: WriterShape) throws {
        try Scratch.withFolder { folder in
            let seed = WriterModelTests.seed
            var dice = SeededRandom(seed)
            let made = try shape.make(in: folder)
            let run = try Run(made, &dice)
            for state in 0..<Self.states {
                let (bytes, step) = run.crash(&dice)
                let place = "seed \(seed), state \(state), after step \(step)"
                let report = try ImageCheck.check(MemorySource(bytes))
                try #require(report.verdict != .corrupt, "\(place): \(report.findings.first?.line ?? "")")
                if let wrong = try run.judge(bytes, step) {
                    Issue.record("\(place): \(wrong)")
                    return
                }
                guard state % 100 == 0 else { continue }
                let path = "\(folder)/crash.qcow2"
                try Data(bytes).write(to: URL(filePath: path))
                let check = try Command(["qemu-img", "check", "-f", "qcow2", path]).run()
                #expect(check.exit == 0 || check.exit == 3, "\(place): \(check)")
            }
        }
    }

    /// One run on a recording storage: what was written when, and what a flush has promised.
    private struct Run {
        let start: [UInt8]
        let backing: [UInt8]
        let steps: [MemoryStorage.Step]
        let cluster: Int
        var end = 0
        /// The disk's sectors by number of the write that wrote them; 0: as before or zeros. After each operation.
        var writes: [(step: Int, sectors: Range<Int>, marks: [UInt64])] = []
        var flushes: [(began: Int, ended: Int, marks: [UInt64])] = []
        let first: [UInt64]

        init(_ made: (image: [UInt8], backing: [UInt8], guest: [UInt8]), _ dice: inout SeededRandom) throws {
            let storage = MemoryStorage(made.image, recording: true)
            let disk = try OfflineDisk(storage, backing: made.backing)
            start = made.image
            backing = made.backing
            cluster = Int(disk.image.header.clusterSize)
            var marks = Run.marks(made.guest)
            first = marks
            for number in 1...120 {
                let sectors = disk.size / 512
                let at = dice.below(sectors)
                let count = min(sectors - at, 1 + dice.below(1 << dice.below(7)))
                let began = storage.steps.count
                switch dice.below(8) {
                case 0:
                    try disk.flush()
                    flushes.append((began, storage.steps.count, marks))
                    continue
                case 1:
                    try disk.zero(at * 512, count * 512, dice.below(2) == 0 ? .keep : .unmap)
                    marks.replaceSubrange(at..<at + count, with: repeatElement(0, count: count))
                default:
                    let mark = UInt64(number) << 32 | 0xabcd
                    let sector = (0..<64).flatMap { _ in
                        (0..<8).map { UInt8(truncatingIfNeeded: mark >> UInt64(8 * $0)) }
                    }
                    try disk.write(at * 512, (0..<count).flatMap { _ in sector })
                    marks.replaceSubrange(at..<at + count, with: repeatElement(mark, count: count))
                }
                writes.append((began, at..<at + count, Array(marks[at..<at + count])))
            }
            try disk.flush()
            steps = storage.steps
            for case .write(let host, let bytes) in steps { end = max(end, Int(host.bytes) + bytes.count) }
            end = (max(end, start.count) + 2 * cluster) / cluster * cluster
        }

        static func marks(_ bytes: [UInt8]) -> [UInt64] {
            stride(from: 0, to: bytes.count, by: 512).map { at in
                (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64(8 * $1) }
            }
        }

        /// What a crash may leave, and after which step it came.
        func crash(_ dice: inout SeededRandom) -> (bytes: [UInt8], step: Int) {
            let step = dice.below(steps.count + 1)
            let sync = steps[..<step].lastIndex(of: .sync).map { $0 + 1 } ?? 0
            var bytes = start + [UInt8](repeating: 0, count: end - start.count)
            let mood = dice.below(4)
            for (i, one) in steps[..<step].enumerated() {
                guard case .write(let host, let new) = one else { continue }
                let at = Int(host.bytes)
                if i < sync || mood == 0 || mood == 1 && dice.below(2) == 0 {
                    bytes.replaceSubrange(at..<at + new.count, with: new)
                } else if mood > 1 {
                    // Torn: some of its sectors.
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

        /// Nil, or what a guest would miss.
        func judge(_ bytes: [UInt8], _ step: Int) throws -> String? {
            let disk = try OfflineDisk(MemoryStorage(bytes), backing: backing)
            let found = Run.marks(try disk.read(0, disk.size))
            let sure = flushes.last { $0.ended <= step }
            let since = writes.filter { $0.step < step && $0.step >= (sure?.began ?? 0) }
            for (sector, mark) in found.enumerated() where mark != (sure?.marks ?? first)[sector] {
                let isNew = since.contains {
                    $0.sectors.contains(sector) && $0.marks[sector - $0.sectors.lowerBound] == mark
                }
                if !isNew {
                    return "sector \(sector) has \(hex(mark)), which was not written there since the last flush"
                }
            }
            return nil
        }
    }
}
