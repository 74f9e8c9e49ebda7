// Header extensions and the backing file's name: what is taken, kept, tolerated and refused.

import DiskTypes
import Testing

@testable import QCOW2

@Suite struct ExtensionTests {
    static let first = 104

    func extensions(_ change: (inout ImageBytes) -> Void) throws -> HeaderExtensions {
        var image = ImageBytes(clusterBits: 12)
        change(&image)
        return try image.image().extensions
    }
    func refusal(_ change: (inout ImageBytes) -> Void) -> String? {
        var image = ImageBytes(clusterBits: 12)
        change(&image)
        return image.refusal()
    }

    @Test func allKnownExtensionsAreTaken() throws {
        let read = try extensions { image in
            image.put(UInt64(4), at: 72)
            var at = image.putExtension(0xe279_2aca, Array("qcow2".utf8), at: Self.first)
            at = image.putExtension(0x4441_5441, Array("data.raw".utf8), at: at)
            at = image.putExtension(0x0537_be77, big(UInt64(0x5000)) + big(UInt64(0x777)), at: at)
            at = image.putExtension(0x2385_2875, big(UInt64(3) << 32) + big(UInt64(96)) + big(UInt64(0x3000)), at: at)
            at = image.putExtension(0x0bad_cafe, [9, 8, 7], at: at)
        }
        #expect(read.backingFormat == "qcow2" && read.externalDataFile == "data.raw")
        #expect(read.encryptionHeader?.offset.bytes == 0x5000 && read.encryptionHeader?.length == 0x777)
        #expect(read.bitmaps == .init(count: 3, directoryBytes: 96, directory: HostOffset(0x3000)))
        #expect(read.bitmapsProblem == nil)
        #expect(read.unknown == [.init(type: 0x0bad_cafe, bytes: [9, 8, 7])])
    }

    @Test func fieldsOfExtensionsAreWhereTheTableSays() throws {
        for row in LayoutTable.rows("bitmaps") + LayoutTable.rows("encryptionHeader") {
            let value: UInt64 = row.width == 8 ? 0x1122_3344_5566_7788 : 0x99aa_bbcc
            let read = try extensions { image in
                let pointer = row.name.hasPrefix("bitmaps")
                image.putExtension(
                    pointer ? 0x2385_2875 : 0x0537_be77, [UInt8](repeating: 0, count: pointer ? 24 : 16), at: Self.first
                )
                image.put(value, in: row, of: Self.first + 8)
            }
            switch row.name {
            case "bitmaps.count": #expect(read.bitmaps?.count == UInt32(value))
            case "bitmaps.reserved": #expect(read.bitmapsProblem != nil)
            case "bitmaps.directoryBytes": #expect(read.bitmaps?.directoryBytes == value)
            case "bitmaps.directory": #expect(read.bitmaps?.directory.bytes == value)
            case "encryptionHeader.offset": #expect(read.encryptionHeader?.offset.bytes == value)
            case "encryptionHeader.length": #expect(read.encryptionHeader?.length == value)
            default: Issue.record("\(row.name) is not tested")
            }
        }
        #expect(LayoutTable.row("extension.type")?.offset == 0 && LayoutTable.row("extension.length")?.offset == 4)
    }

    @Test func listEndsAtTypeZero() throws {
        let read = try extensions { image in
            let at = image.putExtension(0, [], at: Self.first)
            image.putExtension(0x77, [1], at: at)
        }
        #expect(read.unknown.isEmpty)
    }

    @Test func listMayEndWithTheCluster() throws {
        let read = try extensions { image in
            image.putExtension(0x77, [UInt8](repeating: 1, count: 4096 - 104 - 8), at: Self.first)
        }
        #expect(read.unknown.first?.bytes.count == 3984)
    }

    @Test(arguments: [3985, 0x7fff_ffff, 0xffff_ffff] as [UInt32]) func lengthMayNotLeaveTheCluster(_ length: UInt32) {
        let line = refusal { image in
            image.put(UInt32(0x77), at: Self.first)
            image.put(length, at: Self.first + 4)
        }
        #expect(line == "header extension 0x77 is longer than its cluster (file offset 0x68)")
    }

    @Test func extensionsMayNotReachIntoTheBackingName() {
        let line = refusal { image in
            image.put(UInt64(120), at: 8)
            image.put(UInt32(4), at: 16)
            image.putExtension(0x77, [UInt8](repeating: 1, count: 16), at: Self.first)
        }
        #expect(line == "header extension 0x77 is longer than its cluster (file offset 0x68)")
    }

    @Test func duplicateExtensionsTheLastCounts() throws {
        let read = try extensions { image in
            let at = image.putExtension(0xe279_2aca, Array("raw".utf8), at: Self.first)
            image.putExtension(0xe279_2aca, Array("qcow2".utf8), at: at)
        }
        #expect(read.backingFormat == "qcow2")
    }

    @Test(arguments: [("raw\0\0\0", "raw"), ("\0", nil), ("", nil)] as [(String, String?)])
    func backingFormatEndsAtANulAndMayBeEmpty(_ text: String, _ format: String?) throws {
        #expect(
            try extensions { $0.putExtension(0xe279_2aca, Array(text.utf8), at: Self.first) }.backingFormat == format)
    }

    @Test func backingFormatIsBounded() {
        func line(_ count: Int) -> String? {
            refusal { $0.putExtension(0xe279_2aca, [UInt8](repeating: 0x61, count: count), at: Self.first) }
        }
        #expect(line(15) == nil)
        #expect(line(16) == "the backing format name is too long (file offset 0x70)")
    }

    @Test func encryptionHeaderExtensionIsBounded() {
        let line = refusal { $0.putExtension(0x0537_be77, [UInt8](repeating: 0, count: 15), at: Self.first) }
        #expect(line == "the encryption header extension is too short (file offset 0x70)")
    }

    @Test func dataFileNameCountsOnlyWithItsFeatureBit() throws {
        #expect(
            try extensions { $0.putExtension(0x4441_5441, Array("x".utf8), at: Self.first) }.externalDataFile == nil)
        let padded = try extensions {
            $0.put(UInt64(4), at: 72)
            $0.putExtension(0x4441_5441, Array("a\0b".utf8), at: Self.first)
        }
        #expect(padded.externalDataFile == "a")
    }

    @Test func unknownFeatureIsNamedByTheImage() {
        func row(_ kind: UInt8, _ bit: UInt8, _ name: String) -> [UInt8] {
            [kind, bit] + Array(name.utf8) + [UInt8](repeating: 0, count: 46 - name.utf8.count)
        }
        let line = refusal { image in
            image.put(UInt64(1) << 63 | 1 << 5, at: 72)
            image.putExtension(
                0x6803_f857, row(1, 5, "no") + row(0, 5, "anti\u{1b}[2Jgravity") + [0, 63], at: Self.first)
        }
        #expect(
            line == "the image uses incompatible features this program does not know: "
                + "\"anti\\x1b[2Jgravity\" (bit 5), bit 63: read it with the program that made it")
    }

    @Test func featureNameOfFullLengthHasNoNul() throws {
        let name = String(repeating: "n", count: 46)
        let read = try extensions { $0.putExtension(0x6803_f857, [2, 7] + Array(name.utf8), at: Self.first) }
        #expect(read.featureNames == [FeatureName(kind: 2, bit: 7, name: name)])
    }

    @Test func unknownFeatureIsReportedEvenWhereExtensionsAreBroken() {
        let line = refusal { image in
            image.put(UInt64(1) << 40, at: 72)
            image.put(UInt64(0xffff_ffff_ffff_ffff), at: Self.first)
        }
        #expect(line?.hasPrefix("the image uses incompatible features this program does not know: bit 40") == true)
    }

    @Test func unknownCompatibleAndAutoclearBitsMeanNothing() {
        #expect(
            refusal {
                $0.put(~UInt64(0), at: 80); $0.put(~UInt64(0) & ~2, at: 88)
            } == nil)
    }

    // The backing file's name.

    func named(_ offset: UInt64, _ size: UInt32, _ name: String = "base.raw", version: UInt32 = 3) -> ImageBytes {
        var image = ImageBytes(version: version, clusterBits: 12)
        image.put(offset, at: 8)
        image.put(size, at: 16)
        if offset < 4096 { image.put(name, at: Int(offset)) }
        return image
    }

    @Test func backingNameRightAfterAVersion2Header() throws {
        #expect(try named(72, 8, version: 2).image().extensions.backingName == "base.raw")
    }

    @Test func backingNameMayEndTheCluster() throws {
        #expect(try named(4088, 8).image().extensions.backingName == "base.raw")
        #expect(named(4089, 8).refusal() == "the backing file name lies outside the first cluster (file offset 0x8)")
    }

    @Test(arguments: [4097, 1 << 32, UInt64.max] as [UInt64]) func backingNameOutsideIsRefused(_ offset: UInt64) {
        #expect(named(offset, 8).refusal() == "the backing file name lies outside the first cluster (file offset 0x8)")
    }

    @Test func backingNameIsBounded() throws {
        let name = String(repeating: "b", count: 1023)
        #expect(try named(200, 1023, name).image().extensions.backingName == FileName(name))
        #expect(
            named(200, 1024, name).refusal() == "the backing file name is longer than 1023 bytes (file offset 0x10)")
    }

    @Test func backingNameMayNotOverlapTheHeader() {
        #expect(named(103, 1, "").refusal() == "the backing file name overlaps the header (file offset 0x8)")
    }

    @Test func backingNameEndsAtNul() throws {
        #expect(try named(104, 3, "a\0b").image().extensions.backingName == "a")
        #expect(named(104, 3, "\0ab").refusal() == "the backing file name is empty (file offset 0x68)")
    }

    @Test(arguments: [1, 103, 104, 4096] as [UInt64]) func backingNameOfNoBytesIsNoBackingFile(_ offset: UInt64) throws
    {
        #expect(try named(offset, 0, "").image().extensions.backingName == nil)
    }

    @Test func backingNameSizeMeansNothingWithoutAnOffset() throws {
        #expect(try named(0, .max, "QFI").image().extensions.backingName == nil)
    }
}
