// The header's fields are where layout.tsv says, and every refusal says what is wrong.

import DiskTypes
import Testing

@testable import QCOW2

@Suite struct HeaderTests {
    /// A valid value, different from a minimal image's, for each field, and how the decoder gives it back.
    static let fields: [String: (value: UInt64, read: @Sendable (Header) -> UInt64)] = [
        "version": (2, { UInt64($0.version) }),
        "backingNameOffset": (0x1234_5678_9abc_def0, { $0.backingNameOffset }),
        "backingNameSize": (0x1234_5678, { UInt64($0.backingNameSize) }),
        "clusterBits": (10, { UInt64($0.clusterBits) }),
        "size": (0x7654, { $0.size }),
        "encryption": (2, { UInt64($0.encryption.rawValue) }),
        "l1Entries": (0x1_2345, { UInt64($0.l1Entries) }),
        "l1Offset": (0x12_3456_789a_bc00, { $0.l1Offset.bytes }),
        "refcountTableOffset": (0x65_4321_0fed_cc00, { $0.refcountTableOffset.bytes }),
        "refcountTableClusters": (0x123, { UInt64($0.refcountTableClusters) }),
        "snapshotCount": (0xfedc, { UInt64($0.snapshotCount) }),
        "snapshotsOffset": (0x77_6655_4433_2200, { $0.snapshotsOffset.bytes }),
        "incompatible": (0x1122_3344_5566_7703, { $0.incompatible.rawValue }),
        "compatible": (0x8877_6655_4433_2211, { $0.compatible.rawValue }),
        "autoclear": (0x9988_7766_5544_3301, { $0.autoclear.rawValue }),
        "refcountOrder": (6, { UInt64($0.refcountOrder) }),
        "length": (112, { UInt64($0.length) }),
        "compression": (1, { UInt64($0.compression.rawValue) }),
    ]

    @Test func layoutTableIsRead() { #expect(LayoutTable.rows.count == 65) }

    @Test(arguments: LayoutTable.rows("header").filter { $0.name != "header.magic" })
    func fieldIsWhereTheTableSays(_ row: LayoutRow) throws {
        let field = try #require(Self.fields[String(row.name.dropFirst("header.".count))])
        var image = ImageBytes()
        image.put(field.value, in: row)
        if row.name == "header.clusterBits" || row.name == "header.refcountTableClusters" {
            image.put(UInt64(0x800), at: 48)
        }
        if row.name == "header.snapshotCount" { image.put(UInt64(0x400), at: 64) }
        if row.name == "header.compression" {
            image.put(UInt64(8), at: 72)
            image.put(UInt32(105), at: 100)
        }
        #expect(field.read(try image.header()) == field.value)
    }

    @Test func everyFieldOfTheTableIsDecoded() {
        #expect(
            Set(LayoutTable.rows("header").map { String($0.name.dropFirst(7)) })
                == Set(Self.fields.keys).union(["magic"]))
    }

    @Test(arguments: LayoutTable.rows("header").filter { $0.since == 3 })
    func version2HasNoFieldsOfVersion3(_ row: LayoutRow) throws {
        var image = ImageBytes(version: 2)
        image.put(~0, in: row)
        let header = try image.header()
        #expect(header.incompatible.isEmpty && header.compatible.isEmpty && header.autoclear.isEmpty)
        #expect(header.refcountOrder == 4 && header.length == 72 && header.compression == .deflate)
    }

    @Test func featureBitsAreWhereTheTableSays() throws {
        let incompatible: [String: IncompatibleFeatures] = [
            "dirty": .dirty, "corrupt": .corrupt, "externalDataFile": .externalDataFile,
            "compressionType": .compressionType, "extendedL2": .extendedL2,
        ]
        for row in LayoutTable.rows("incompatible") {
            #expect(incompatible[String(row.name.dropFirst(13))]?.rawValue == row.mask, "\(row.name)")
        }
        #expect(IncompatibleFeatures.known.rawValue == LayoutTable.rows("incompatible").reduce(0) { $0 | $1.mask })
        #expect(CompatibleFeatures.lazyRefcounts.rawValue == LayoutTable.row("compatible.lazyRefcounts")?.mask)
        #expect(AutoclearFeatures.bitmaps.rawValue == LayoutTable.row("autoclear.bitmaps")?.mask)
        #expect(AutoclearFeatures.rawExternalData.rawValue == LayoutTable.row("autoclear.rawExternalData")?.mask)
    }

    /// What is written over a valid image, and the line that must come out.
    struct Refusal: Sendable, CustomTestStringConvertible {
        let line: String
        let change: @Sendable (inout ImageBytes) -> Void
        var version: UInt32 = 3
        var testDescription: String { line }
    }
    typealias Change = @Sendable (inout ImageBytes) -> Void
    static func refuse(_ line: String, version: UInt32 = 3, _ change: @escaping Change) -> Refusal {
        Refusal(line: line, change: change, version: version)
    }

    static let refusals: [Refusal] = [
        refuse("not a qcow2 image: the magic number is missing: say -f raw if it is a raw image") {
            $0.put(UInt8(0x52), at: 0)
        },
        refuse("not a qcow2 image: the magic number is missing: say -f raw if it is a raw image") { $0.bytes = [] },
        refuse("not a qcow2 image: the magic number is missing: say -f raw if it is a raw image") {
            $0.bytes.removeLast($0.bytes.count - 7)
        },
        refuse("qcow2 version 1 is not known: versions 2 and 3 are") { $0.put(UInt32(1), at: 4) },
        refuse("qcow2 version 4294967295 is not known: versions 2 and 3 are") { $0.put(UInt32.max, at: 4) },
        refuse("the header is cut off: the image is truncated") { $0.bytes.removeLast($0.bytes.count - 103) },
        refuse("the header is cut off: the image is truncated", version: 2) {
            $0.bytes.removeLast($0.bytes.count - 71)
        },
        refuse("the header is cut off: the image is truncated") {
            $0.put(UInt32(120), at: 100)
            $0.bytes.removeLast($0.bytes.count - 112)
        },
        refuse("encryption method 3 is not known") { $0.put(UInt32(3), at: 32) },
        refuse("compression type 2 is not known: zlib and zstd are") {
            $0.put(UInt32(112), at: 100)
            $0.put(UInt8(2), at: 104)
        },
        refuse("the compression type and its feature bit contradict each other (file offset 0x68)") {
            $0.put(UInt32(112), at: 100)
            $0.put(UInt8(1), at: 104)
        },
        refuse("the compression type and its feature bit contradict each other (file offset 0x68)") {
            $0.put(UInt64(8), at: 72)
        },
        refuse("cluster size 2^8 is out of range (file offset 0x14): 512 bytes to 2 MiB are possible") {
            $0.put(UInt32(8), at: 20)
        },
        refuse("cluster size 2^22 is out of range (file offset 0x14): 512 bytes to 2 MiB are possible") {
            $0.put(UInt32(22), at: 20)
        },
        refuse("cluster size 2^4294967295 is out of range (file offset 0x14): 512 bytes to 2 MiB are possible") {
            $0.put(UInt32.max, at: 20)
        },
        refuse("extended L2 entries need clusters of at least 16 KiB (file offset 0x14)") {
            $0.put(UInt32(13), at: 20)
            $0.put(UInt64(16), at: 72)
        },
        refuse("refcount width 2^7 is out of range (file offset 0x60): 1 to 64 bits are possible") {
            $0.put(UInt32(7), at: 96)
        },
        refuse("header length 103 is out of range (file offset 0x64)") { $0.put(UInt32(103), at: 100) },
        refuse("header length 513 is out of range (file offset 0x64)") { $0.put(UInt32(513), at: 100) },
        refuse("the virtual size 9223372036854775808 is too big (file offset 0x18)") {
            $0.put(UInt64(1) << 63, at: 24)
        },
        refuse("the raw data file flag is set without an external data file (file offset 0x58)") {
            $0.put(UInt64(2), at: 88)
        },
        refuse("the L1 table is too small for the virtual size (file offset 0x24)") {
            $0.put(UInt64(1 << 20 + 1), at: 24)
        },
        refuse("the L1 table is too small for the virtual size (file offset 0x24)") {
            $0.put(UInt64(Int64.max), at: 24)
        },
        refuse("the L1 table claims 33554440 bytes, more than possible: at most 33554432 are") {
            $0.put(UInt32(4_194_305), at: 36)
        },
        refuse("the L1 table is not cluster aligned (file offset 0x401)") { $0.put(UInt64(0x401), at: 40) },
        refuse("the L1 table lies out of range (file offset 0x100000000000000)") {
            $0.put(UInt64(1) << 56, at: 40)
        },
        refuse("the L1 table overlaps the header (file offset 0x0)") { $0.put(UInt64(0), at: 40) },
        refuse("the L1 table lies past the end of the file (file offset 0x40000000): the image is truncated") {
            $0.put(UInt64(1) << 30, at: 40)
        },
        refuse("the image has no refcount table (file offset 0x38): repair it first") { $0.put(UInt32(0), at: 56) },
        refuse("the refcount table claims 8389120 bytes, more than possible: at most 8388608 are") {
            $0.put(UInt32(16385), at: 56)
        },
        refuse("the refcount table is not cluster aligned (file offset 0x210)") { $0.put(UInt64(0x210), at: 48) },
        refuse("the refcount table overlaps the header (file offset 0x0)") { $0.put(UInt64(0), at: 48) },
        refuse("the refcount table lies past the end of the file (file offset 0x20000000): the image is truncated") {
            $0.put(UInt64(1) << 29, at: 48)
        },
        refuse("the L1 table and the refcount table overlap (file offset 0x400)") { $0.put(UInt64(0x400), at: 48) },
        refuse("65537 snapshots are more than possible (file offset 0x3c)") { $0.put(UInt32(65537), at: 60) },
        refuse("the snapshot table is not cluster aligned (file offset 0x601)") {
            $0.put(UInt32(1), at: 60)
            $0.put(UInt64(0x601), at: 64)
        },
    ]

    @Test(arguments: refusals) func refusalSaysWhatAndWhere(_ refusal: Refusal) {
        var image = ImageBytes(version: refusal.version)
        refusal.change(&image)
        #expect(image.refusal() == refusal.line)
    }

    @Test(arguments: [9, 12, 16, 21] as [UInt32]) func everyClusterSizeOpens(_ bits: UInt32) throws {
        let header = try ImageBytes(clusterBits: bits).header()
        #expect(header.clusterSize == 1 << UInt64(bits) && header.l2CoverageBits == UInt64(2 * bits - 3))
    }

    @Test func limitsThemselvesAreAllowed() throws {
        var image = ImageBytes(clusterBits: 21, size: 512)
        image.put(UInt64(1) << 61, at: 24)  // 2 EiB: what 32 MiB of L1 map
        image.put(UInt32(4_194_304), at: 36)
        image.put(UInt32(4), at: 56)
        image.put(UInt64(1) << 56 - 1 << 21, at: 48)
        image.put(UInt32(65536), at: 60)
        image.put(UInt64(4) << 21, at: 64)
        image.put(UInt32(6), at: 96)
        image.put(UInt32(1 << 21), at: 100)
        #expect(try image.header().diskSize == 1 << 61)
        image.put(UInt64(1) << 61 + 1, at: 24)
        #expect(throws: ImageError.self) { try image.header() }
    }

    @Test(
        arguments: [(0, 0), (1, 0), (511, 0), (512, 512), (1000, 512), (1023, 512), (1024, 1024)] as [(UInt64, UInt64)])
    func guestSeesWholeSectors(_ size: UInt64, _ seen: UInt64) throws {
        let image = ImageBytes(size: size)
        #expect(try image.header().diskSize == seen)
        #expect(try QCOW2Map(image.image(), source: image.source, cacheLimit: 0).size == seen)
    }

    @Test func headerLength105IsAccepted() throws {
        var image = ImageBytes()
        image.put(UInt32(105), at: 100)
        image.put(UInt8(1), at: 104)
        image.put(UInt64(8), at: 72)
        image.putExtension(0x1234, [1, 2, 3], at: 105)
        let read = try image.image()
        #expect(read.header.compression == .zstd)
        #expect(read.extensions.unknown == [.init(type: 0x1234, bytes: [1, 2, 3])])
    }

    @Test func l1TableMayBeLargerThanNeededAndCutOffThere() throws {
        var image = ImageBytes(size: 4096)
        image.put(UInt32(1000), at: 36)
        image.bytes.removeLast(image.bytes.count - 1024 - 8)
        #expect(image.refusal() == nil)
        #expect(try QCOW2Map(image.image(), source: image.source, cacheLimit: 0).l1.count == 1)
    }

    @Test func sizeZeroNeedsNoL1Table() throws {
        var image = ImageBytes(size: 0)
        image.put(UInt64.max, at: 40)
        let map = try QCOW2Map(image.image(), source: image.source, cacheLimit: 1 << 20)
        #expect(map.size == 0 && map.l1.count == 0)
    }

    @Test func probeNeedsTheMagicOnly() {
        #expect(QCOW2Image.probe(Array(ImageBytes().bytes.prefix(4))))
        #expect(!QCOW2Image.probe([0x51, 0x46, 0x49]) && !QCOW2Image.probe([]))
    }

    @Test(arguments: [(1, "AES"), (2, "LUKS")] as [(UInt32, String)])
    func encryptedImageOpensButIsNotReadable(_ method: UInt32, _ name: String) throws {
        var image = ImageBytes()
        image.put(method, at: 32)
        let read = try image.image()
        let error = #expect(throws: ImageError.self) { try read.requireReadable() }
        #expect(error?.description.hasPrefix("the image is encrypted (\(name))") == true)
    }
}
