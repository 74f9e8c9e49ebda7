// A file that is written grows in steps. Where a step is refused the writer asks for what it needs; and a file that has become
// shorter meanwhile is given up before it grows again.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

@Suite("A file that grows", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct GrowthTests {
    static let shapes = WriterShape.all.filter { !$0.hasBacking }

    @Test("A limit of the file's size refuses only what lies behind it", arguments: shapes)
    func limit(shape: WriterShape) throws {
        try Scratch.withFolder { folder in
            let made = try shape.make(in: folder)
            let cluster = Int(try QCOW2Image(reading: MemorySource(made.image)).header.clusterSize)
            let room = max(1 << 20, 8 * cluster)
            let disk = try OfflineDisk(MemoryStorage(made.image, limit: made.image.count + room))
            var model = made.guest
            // Less than there is room for, tables and copies of clusters included.
            let count = min(room / 4, disk.size / 2) & ~511
            try disk.write(0, [UInt8](repeating: 9, count: count))
            model.replaceSubrange(0..<count, with: repeatElement(9, count: count))
            try disk.flush()
            // Far more than that.
            var failures = 0
            for at in stride(from: 0, to: disk.size - 512, by: max(512, disk.size / 64)) {
                do {
                    try disk.write(at & ~511, [UInt8](repeating: 9, count: 512))
                    model.replaceSubrange(at & ~511..<at & ~511 + 512, with: repeatElement(9, count: 512))
                } catch { failures += 1 }
            }
            try disk.close()
            #expect(try OfflineDisk(disk.storage).read(0, disk.size) == model, "\(failures) writes failed")
            #expect(try ImageCheck.check(disk.storage).verdict == .clean)
        }
    }

    @Test("A file that is cut is not made longer again, and nothing of it is read", arguments: shapes)
    func cut(shape: WriterShape) throws {
        try Scratch.withFolder { folder in
            let disk = try OfflineDisk(MemoryStorage(try shape.make(in: folder).image))
            try disk.write(0, [UInt8](repeating: 9, count: 64 << 10))
            try disk.flush()
            let length = disk.storage.bytes.count / 2
            disk.storage.bytes.removeLast(disk.storage.bytes.count - length)
            #expect(throws: ImageError.self) {
                // In place or not, it would make the file longer again.
                try disk.write(disk.size / 2, [UInt8](repeating: 8, count: 64 << 10))
                try disk.flush()
            }
            #expect(disk.writer.isCut)
            let after = disk.storage.bytes.count
            for at in [0, 512, 60 << 10] {
                #expect(throws: DiskError.self) { try disk.read(at, 512) }
                #expect(throws: DiskError.self) { try disk.write(at, [UInt8](repeating: 1, count: 512)) }
            }
            #expect(throws: (any Error).self) { try disk.flush() }
            #expect(disk.storage.bytes.count == after)
        }
    }
}
