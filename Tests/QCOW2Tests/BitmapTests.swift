// The bitmap directory: fields where layout.tsv says; broken in any way, it is reported where bitmaps are asked for
// and the image still opens.

import DiskTypes
import Testing

@testable import QCOW2

extension ImageBytes {
    static let directoryAt = 0x1000

    /// A minimal image with a bitmap directory of these bytes.
    init(directory: [UInt8], count: UInt32, autoclear: UInt64 = 1) {
        self.init()
        put(autoclear, at: 88)
        putExtension(
            0x2385_2875, big(count) + big(UInt32(0)) + big(UInt64(directory.count)) + big(UInt64(Self.directoryAt)),
            at: 104)
        put(directory, at: Self.directoryAt)
    }
    static func bitmap(_ name: String, extra: [UInt8] = []) -> [UInt8] {
        let b =
            big(UInt64(0x2000)) + big(UInt32(5)) + big(UInt32(2)) + [1, 16] + big(UInt16(name.utf8.count))
            + big(UInt32(extra.count)) + extra + Array(name.utf8)
        return b + [UInt8](repeating: 0, count: -b.count & 7)
    }
    func bitmaps() throws -> [Bitmap] { try image().bitmaps.get() }
    func bitmapRefusal() throws -> String? {
        if case .failure(let error) = try image().bitmaps { error.description } else { nil }
    }
}

@Suite struct BitmapTests {
    static let fields: [String: (value: UInt64, read: @Sendable (Bitmap) -> UInt64)] = [
        "table": (0x1122_3344_5566_7788, { $0.table.bytes }),
        "tableEntries": (0x99aa_bbcc, { UInt64($0.tableEntries) }),
        "flags": (0xfedc_ba98, { UInt64($0.flags) }),
        "type": (1, { _ in 1 }),
        "granularityBits": (31, { UInt64($0.granularityBits) }),
        "nameSize": (3, { UInt64($0.name.utf8.count) }),
        "extraSize": (2, { $0.name == "cdef" ? 2 : 0 }),
    ]

    @Test(arguments: LayoutTable.rows("bitmap")) func fieldIsWhereTheTableSays(_ row: LayoutRow) throws {
        let field = try #require(Self.fields[String(row.name.dropFirst("bitmap.".count))])
        var image = ImageBytes(directory: ImageBytes.bitmap("abcdef"), count: 1)
        if row.name == "bitmap.extraSize" { image.put(UInt16(4), at: ImageBytes.directoryAt + 18) }
        image.put(field.value, in: row, of: ImageBytes.directoryAt)
        #expect(field.read(try image.bitmaps()[0]) == field.value)
    }

    @Test func directoryIsListed() throws {
        let directory = ImageBytes.bitmap("daily") + ImageBytes.bitmap("weekly", extra: [1, 2, 3])
        let list = try ImageBytes(directory: directory, count: 2).bitmaps()
        #expect(list.map(\.name) == ["daily", "weekly"])
        #expect(list[0].isAuto && !list[0].isInUse && list[0].granularity == 65536)
    }

    @Test func withoutTheAutoclearBitThereAreNone() throws {
        #expect(try ImageBytes(directory: [1, 2, 3], count: 9, autoclear: 0).bitmaps().isEmpty)
        var image = ImageBytes()
        image.put(UInt64(1), at: 88)
        #expect(try image.bitmaps().isEmpty)
    }

    @Test func nameSizeIsBounded() throws {
        #expect(
            try ImageBytes(directory: ImageBytes.bitmap(String(repeating: "n", count: 1023)), count: 1).bitmaps().count
                == 1)
        #expect(
            try ImageBytes(directory: ImageBytes.bitmap(String(repeating: "n", count: 1024)), count: 1).bitmapRefusal()
                == "a bitmap directory entry is out of range (file offset 0x1000)")
    }

    struct Broken: Sendable, CustomTestStringConvertible {
        let line: String
        let change: @Sendable (inout ImageBytes) -> Void
        var testDescription: String { line }
    }
    static func broken(_ line: String, _ change: @escaping @Sendable (inout ImageBytes) -> Void) -> Broken {
        Broken(line: line, change: change)
    }
    static let pointerAt = 112
    static let cases: [Broken] = [
        broken("the bitmaps extension has a wrong length (file offset 0x70)") { $0.put(UInt32(23), at: 108) },
        broken("a reserved field of the bitmaps extension is set (file offset 0x70)") {
            $0.put(UInt32(1), at: pointerAt + 4)
        },
        broken("the bitmaps extension claims 0 bitmaps") { $0.put(UInt32(0), at: pointerAt) },
        broken("the bitmaps extension claims 65536 bitmaps") { $0.put(UInt32(65536), at: pointerAt) },
        broken("the bitmap directory is out of range (file offset 0x1000)") {
            $0.put(UInt64(64 << 20 + 1), at: pointerAt + 8)
        },
        broken("the bitmap directory is out of range (file offset 0x1001)") {
            $0.put(UInt64(0x1001), at: pointerAt + 16)
        },
        broken(
            "the bitmap directory lies past the end of the file (file offset 0x100000): "
                + "the image is truncated or damaged"
        ) { $0.put(UInt64(1 << 20), at: pointerAt + 16) },
        broken(
            "the bitmap directory lies past the end of the file (file offset 0xfffffffffffffe00): "
                + "the image is truncated or damaged"
        ) { $0.put(~UInt64(511), at: pointerAt + 16) },
        broken("a bitmap has granularity 2^8 (file offset 0x1000)") { $0.put(UInt8(8), at: directoryAt + 17) },
        broken("a bitmap has granularity 2^32 (file offset 0x1000)") { $0.put(UInt8(32), at: directoryAt + 17) },
        broken("bitmap type 0 is not known") { $0.put(UInt8(0), at: directoryAt + 16) },
        broken("bitmap type 2 is not known") { $0.put(UInt8(2), at: directoryAt + 16) },
        broken("a bitmap directory entry is out of range (file offset 0x1000)") {
            $0.put(UInt16(0), at: directoryAt + 18)
        },
        broken("a bitmap directory entry is out of range (file offset 0x1000)") {
            $0.put(UInt32.max, at: directoryAt + 20)
        },
        broken("a structure is cut off (file offset 0x1038)") { $0.put(UInt32(32), at: directoryAt + 20) },
        broken("a structure is cut off (file offset 0x1018)") { $0.put(UInt16(99), at: directoryAt + 18) },
        broken("a structure is cut off (file offset 0x1030)") {
            $0.put(UInt32(2), at: pointerAt)
            $0.put(UInt64(33), at: pointerAt + 8)
        },
        broken("the bitmap directory has 1 entries, the header says 2") { $0.put(UInt32(2), at: pointerAt) },
        broken("the bitmap directory has more entries than the 1 the header says") {
            $0.put(UInt64(64), at: pointerAt + 8)
            $0.put(ImageBytes.bitmap("b"), at: directoryAt + 32)
        },
    ]
    private static let directoryAt = ImageBytes.directoryAt

    @Test(arguments: cases) func brokenDirectoryNeverBlocksTheImage(_ broken: Broken) throws {
        var image = ImageBytes(directory: ImageBytes.bitmap("a"), count: 1)
        image.pad(to: 0x1100)
        broken.change(&image)
        #expect(try image.bitmapRefusal() == broken.line)
    }
}
