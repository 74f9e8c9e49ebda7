// Whatever is written in whatever order, the disk is a flat array of bytes, the image has neither errors nor leaks,
// and QEMU reads the same.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

@Suite("A written image", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct WriterModelTests {
    /// QBLK_SEED repeats a run.
    static let seed = ProcessInfo.processInfo.environment["QBLK_SEED"].flatMap { UInt64($0) } ?? .random(in: 1...99999)

    /// Of each shape. More when hunting: QBLK_MODEL_OPERATIONS=200000 and a release build.
    static let operations =
        ProcessInfo.processInfo.environment["QBLK_MODEL_OPERATIONS"].flatMap { Int($0) } ?? 900

    @Test(arguments: WriterShape.all)
    func isAFlatArray(shape: WriterShape) throws {
        try Scratch.withFolder { folder in
            let made = try shape.make(in: folder)
            var model = made.guest
            var dice = SeededRandom(Self.seed)
            let storage = MemoryStorage(made.image)
            // An image is judged once a burst.
            let steps = Self.operations < 10_000 ? 300 : 1000
            for burst in 0..<max(1, Self.operations / steps) {
                if ProcessInfo.processInfo.environment["QBLK_TRACE"] != nil {
                    FileHandle.standardError.write(Data("\(shape.name) \(burst)\n".utf8))
                }
                let disk = try OfflineDisk(
                    storage, backing: made.backing, cacheLimit: burst % 3 == 1 ? 1 : 1 << 20, places: 1 + burst % 3)
                for step in 0..<steps {
                    try Self.act(disk, &model, &dice, "seed \(Self.seed), burst \(burst), step \(step)")
                }
                try disk.close()
                #expect(try disk.read(0, disk.size) == model, "seed \(Self.seed)")
                try Self.judge(storage, model, folder, "seed \(Self.seed), burst \(burst)")
            }
        }
    }

    /// One operation, drawn.
    private struct Draw {
        let at: Int
        let length: Int
        let kind: Int

        init(_ size: Int, _ dice: inout SeededRandom) {
            let sectors = size / 512
            let start = dice.below(sectors)
            let count = min(sectors - start, 1 + dice.below(1 << dice.below(10)))
            (at, length) = (start * 512, count * 512)
            kind = dice.below(16)
        }

        var bytes: [UInt8] {
            guard kind < 8 else { return [UInt8](repeating: 0, count: length) }
            return (0..<length).map {
                UInt8(truncatingIfNeeded: $0 >> 9) ^ UInt8(truncatingIfNeeded: at / 512 &* 7 &+ 1)
            }
        }
    }

    static func act(
        _ disk: OfflineDisk<some ResizableStorage>, _ model: inout [UInt8], _ dice: inout SeededRandom, _ place: String
    ) throws {
        let draw = Draw(disk.size, &dice)
        let (at, length) = (draw.at, draw.length)
        switch draw.kind {
        case 0..<8: try disk.write(at, draw.bytes)
        case 8..<10: try disk.zero(at, length, .keep)
        case 10..<12: try disk.zero(at, length, .unmap)
        case 12:
            // What is discarded may read as anything that was never another cluster's: here, as before or zeros.
            try disk.zero(at, length, .discard)
            let now = try disk.read(at, length)
            for i in 0..<length where now[i] != 0 && now[i] != model[at + i] {
                throw DiskError("\(place): a discarded byte at \(at + i) shows something else")
            }
            model.replaceSubrange(at..<at + length, with: now)
        case 13: try disk.flush()
        default:
            guard try disk.read(at, length) == Array(model[at..<at + length]) else {
                throw DiskError("\(place): a read at \(at) of \(length) gives other bytes")
            }
        }
        if draw.kind < 12 { model.replaceSubrange(at..<at + length, with: draw.bytes) }
    }

    /// The disk after the next operation, all of which happened.
    static func result(_ model: [UInt8], _ dice: inout SeededRandom) -> [UInt8] {
        let draw = Draw(model.count, &dice)
        guard draw.kind < 13 else { return model }
        var after = model
        after.replaceSubrange(draw.at..<draw.at + draw.length, with: draw.bytes)
        return after
    }

    static func judge(_ storage: MemoryStorage, _ model: [UInt8], _ folder: String, _ place: String) throws {
        let path = "\(folder)/image.qcow2"
        try Data(storage.bytes).write(to: URL(filePath: path))
        let check = try Command(["qemu-img", "check", "-f", "qcow2", path]).run()
        #expect(check.exit == 0, "\(place): \(check)")
        #expect(try WriterShape.guestBytes(path, folder) == model, "\(place): qemu-img reads other bytes")
    }
}
