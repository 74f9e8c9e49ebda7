// An image that a stranger made is opened for writing, and its tables lie about each other. A write may fail; it must
// not put a guest's bytes where the image's own tables are, nor free a table so that a later write does.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

@Suite("Tables that lie to a writer", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct HostileWriterTests {
    private func image(_ shape: WriterShape, _ patch: (inout [UInt8], Header) throws -> Void) throws -> [UInt8] {
        try Scratch.withFolder { folder in
            var bytes = try shape.make(in: folder).image
            try patch(&bytes, try QCOW2Image(reading: MemorySource(bytes)).header)
            return bytes
        }
    }

    private func word(_ bytes: [UInt8], _ at: UInt64) -> UInt64 {
        bytes[Int(at)..<Int(at) + 8].reduce(0) { $0 << 8 | UInt64($1) }
    }

    private func set(_ bytes: inout [UInt8], _ at: UInt64, _ word: UInt64) {
        for i in 0..<8 { bytes[Int(at) + i] = UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * i)) }
    }

    private let shape = WriterShape(name: "64k", before: ["write -P 7 0 128k"])
    private let l2Mask: UInt64 = 0x00ff_ffff_ffff_fe00

    @Test func aRefcountBlockInAnothersPlaceIsRefused() throws {
        for victim in 0..<3 {
            let bytes = try image(shape) { bytes, header in
                let l1 = header.l1Offset.bytes
                let places = [0, l1, word(bytes, l1) & l2Mask]
                // The second entry: the first stays as it is.
                let entry = header.refcountTableOffset.bytes + (victim == 0 ? 8 : 0)
                set(&bytes, entry, victim == 0 ? header.refcountTableOffset.bytes : places[victim])
            }
            let error = #expect(throws: ImageError.self) { try OfflineDisk(MemoryStorage(bytes)) }
            #expect(error?.what.contains("same place") == true, "victim \(victim): \(error.map { "\($0)" } ?? "none")")
        }
    }

    @Test func twoL1EntriesDoNotOwnOneTable() throws {
        let shape = WriterShape(name: "512", options: ["cluster_size=512"], size: 1 << 20, before: ["write -P 7 0 64k"])
        let bytes = try image(shape) { bytes, header in
            let l1 = header.l1Offset.bytes
            set(&bytes, l1 + 8, word(bytes, l1))
        }
        #expect(throws: ImageError.self) { try OfflineDisk(MemoryStorage(bytes)) }
    }

    @Test("a stream that claims a table does not free it", arguments: [ZeroMode.keep, .unmap, .discard])
    func streamOverTable(mode: ZeroMode) throws {
        let bytes = try image(shape) { bytes, header in
            // The second cluster's entry: compressed, one sector at the L2 table's own place.
            let l2 = word(bytes, header.l1Offset.bytes) & l2Mask
            set(&bytes, l2 + 8, 1 << 62 | l2)
        }
        let disk = try OfflineDisk(MemoryStorage(bytes))
        for change in [{ try disk.zero(64 << 10, 64 << 10, mode) }, { try disk.flush() }] { try? change() }
        try? disk.flush()
        try? disk.write(1 << 20, [UInt8](repeating: 9, count: 2 << 20))
        try? disk.flush()
        let again = try OfflineDisk(MemoryStorage(disk.storage.bytes))
        #expect(try again.read(0, 64 << 10) == [UInt8](repeating: 7, count: 64 << 10))
    }

    /// An L2 table past the end of the file: what grows there must not be the guest's, who could write a table of its own.
    @Test func dataNeverComesWhereACutOffTableWas() throws {
        var place: UInt64 = 0
        let shape = WriterShape(name: "512", options: ["cluster_size=512"], size: 1 << 20, before: ["write -P 7 0 8k"])
        let bytes = try image(shape) { bytes, header in
            place = (UInt64(bytes.count) + 511) & ~511 + 20 * 512
            set(&bytes, header.l1Offset.bytes + 8 * 8, 1 << 63 | place)
        }
        let disk = try OfflineDisk(MemoryStorage(bytes))
        try? disk.write(64 << 10, [UInt8](repeating: 9, count: 32 << 10))
        try? disk.flush()
        let end = min(Int(place) + 512, disk.storage.bytes.count)
        #expect(disk.storage.bytes[min(Int(place), end)..<end].allSatisfy { $0 == 0 })
    }
}
