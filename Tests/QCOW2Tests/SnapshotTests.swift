// The snapshot table: fields where layout.tsv says, version 2's short entries, broken tables that never block the
// active state, and maps of snapshots with another size than the image.

import DiskTypes
import Testing

@testable import QCOW2

/// One entry of a snapshot table, to be written.
struct SnapshotEntry {
    var id = "1"
    var name = "first"
    var l1Offset: UInt64 = 0x400
    var l1Entries: UInt32 = 32
    var extra: [UInt8] = big(UInt64(0)) + big(UInt64(1 << 20)) + big(UInt64.max)

    var bytes: [UInt8] {
        var b = big(l1Offset) + big(l1Entries) + big(UInt16(id.utf8.count)) + big(UInt16(name.utf8.count))
        b += [UInt8](repeating: 0, count: 20) + big(UInt32(extra.count)) + extra + Array(id.utf8) + Array(name.utf8)
        return b + [UInt8](repeating: 0, count: -b.count & 7)
    }
}

extension ImageBytes {
    static let snapshotsAt = 0x1000

    /// A minimal image whose snapshot table has these entries.
    init(snapshots: [SnapshotEntry], version: UInt32 = 3) {
        self.init(version: version)
        put(UInt32(snapshots.count), at: 60)
        put(UInt64(Self.snapshotsAt), at: 64)
        put(snapshots.flatMap(\.bytes), at: Self.snapshotsAt)
    }
    func snapshots() throws -> [Snapshot] { try image().snapshots.get() }
    func snapshotRefusal() throws -> String? {
        if case .failure(let error) = try image().snapshots { error.description } else { nil }
    }
    func map(of snapshot: Snapshot) throws -> QCOW2Map {
        try QCOW2Map(image(), snapshot: snapshot, source: source, cacheLimit: 0)
    }
}

@Suite struct SnapshotTests {
    static let fields: [String: (value: UInt64, read: @Sendable (Snapshot) -> UInt64)] = [
        "l1Offset": (0x1122_3344_5566_7788, { $0.l1Offset.bytes }),
        "l1Entries": (0x99aa_bbcc, { UInt64($0.l1Entries) }),
        "idSize": (3, { UInt64($0.id.utf8.count) }),
        "nameSize": (2, { UInt64($0.name.utf8.count) }),
        "dateSeconds": (0xfeed_beef, { UInt64($0.dateSeconds) }),
        "dateNanoseconds": (999_999_999, { UInt64($0.dateNanoseconds) }),
        "vmClock": (0x0102_0304_0506_0708, { $0.vmClock }),
        "vmStateSize32": (0x8765_4321, { $0.vmStateSize }),
        "extraSize": (16, { UInt64($0.icount == nil ? 16 : 24) }),
        "vmStateSize": (0x5566_7788_99aa_bbcc, { $0.vmStateSize }),
        "diskSize": (0xaabb_ccdd_eeff_0011, { $0.diskSize ?? 0 }),
        "icount": (0x1111_2222_3333_4444, { $0.icount ?? 0 }),
    ]

    @Test(arguments: LayoutTable.rows("snapshot")) func fieldIsWhereTheTableSays(_ row: LayoutRow) throws {
        let field = try #require(Self.fields[String(row.name.dropFirst("snapshot.".count))])
        var entry = SnapshotEntry()
        if row.name == "snapshot.vmStateSize32" { entry.extra = [] }
        var image = ImageBytes(snapshots: [entry], version: entry.extra.isEmpty ? 2 : 3)
        image.put(field.value, in: row, of: ImageBytes.snapshotsAt)
        #expect(field.read(try image.snapshots()[0]) == field.value)
    }

    @Test func idAndNameFollowTheExtraData() throws {
        var entry = SnapshotEntry(id: "42", name: "before the upgrade")
        entry.extra += [UInt8](repeating: 0xff, count: 1000)  // from a later version
        let list = try ImageBytes(snapshots: [entry, SnapshotEntry()]).snapshots()
        #expect(list.map(\.id) == ["42", "1"] && list.map(\.name) == ["before the upgrade", "first"])
    }

    @Test(arguments: [0, 8, 15], [2, 3] as [UInt32]) func entryMayLackTheDiskSize(_ extra: Int, _ version: UInt32)
        throws
    {
        var entry = SnapshotEntry()
        entry.extra = [UInt8](repeating: 0, count: extra)
        let image = ImageBytes(snapshots: [entry], version: version)
        let snapshot = try image.snapshots()[0]
        #expect(snapshot.diskSize == nil && snapshot.icount == nil)
        #expect(try image.map(of: snapshot).size == 1 << 20)
        #expect(snapshot.isComplete == false)
    }

    @Test func idComesBeforeName() throws {
        let image = try ImageBytes(snapshots: [
            SnapshotEntry(id: "1", name: "2"), SnapshotEntry(id: "2", name: "1"), SnapshotEntry(id: "3", name: "x"),
            SnapshotEntry(id: "4", name: "x"),
        ]).image()
        #expect(try image.snapshot("1").name == "2" && image.snapshot("2").name == "1")
        #expect(try image.snapshot("x").id == "3")
        let error = #expect(throws: ImageError.self) { try image.snapshot("y\u{7}") }
        #expect(error?.description == "there is no snapshot \"y\\x07\": `qblk info` lists what there is")
        #expect(error?.kind == .notFound)
    }

    @Test(arguments: [
        ("a\u{202e}gnp.exe", "a\\xe2\\x80\\xaegnp.exe"),
        ("a\u{2028}b\u{9b}c\r\n", "a\\xe2\\x80\\xa8b\\xc2\\x9bc\\x0d\\x0a"), ("é 名", "é 名"),
        ("a\\b", "a\\b"), ("a\\xff", "a\\x5cxff"),
    ])
    func printedNamesAreOneHonestLine(_ name: String, _ printed: String) { #expect(printable(name) == printed) }

    @Test func namesThatAreNotUnicodeAreNoLongerThanTheirBytes() throws {
        var image = ImageBytes(snapshots: [SnapshotEntry(id: "1", name: "abcd")])
        image.put([0xff, 0xfe] as [UInt8], at: ImageBytes.snapshotsAt + 40 + 24 + 1)
        #expect(try image.snapshots()[0].name == "??cd")
    }

    @Test func brokenTableNeverBlocksTheActiveState() throws {
        var image = ImageBytes(snapshots: [SnapshotEntry()])
        image.put(UInt32(0x0400_0001), at: ImageBytes.snapshotsAt + 36)
        #expect(
            try image.snapshotRefusal()
                == "a snapshot entry claims 67108865 bytes of extra data (file offset 0x1000)")
        image.put(UInt32(0x0400_0000), at: ImageBytes.snapshotsAt + 36)
        #expect(try image.snapshotRefusal() == "the snapshot table is cut off (file offset 0x1000)")
        image.put(UInt64(1) << 40, at: 64)
        #expect(
            try image.snapshotRefusal()
                == "the snapshot table lies past the end of the file (file offset 0x10000000000)")
        image.put(UInt64(0x1000), at: 64)
        image.put(UInt32(65536), at: 60)
        #expect(try image.snapshotRefusal() != nil)
        #expect(try QCOW2Map(image.image(), source: image.source, cacheLimit: 0).size == 1 << 20)
    }

    @Test(arguments: [0, 512, 33_333, 1 << 20] as [UInt64]) func snapshotHasItsOwnSize(_ size: UInt64) throws {
        let image = ImageBytes(snapshots: [SnapshotEntry(extra: big(UInt64(0)) + big(size))])
        #expect(try image.map(of: image.snapshots()[0]).size == size & ~511)
    }

    static let l1Refusals: [(SnapshotEntry, String)] = [
        (
            SnapshotEntry(l1Entries: 31), "the snapshot's L1 table does not fit its disk size (file offset 0x400)"
        ),
        (
            SnapshotEntry(l1Entries: 4_194_305),
            "the snapshot's L1 table does not fit its disk size (file offset 0x400)"
        ),
        (
            SnapshotEntry(extra: big(UInt64(0)) + big(UInt64.max)),
            "the snapshot's L1 table does not fit its disk size (file offset 0x400)"
        ),
        (SnapshotEntry(l1Offset: 0x401), "the snapshot's L1 table lies out of range (file offset 0x401)"),
        (SnapshotEntry(l1Offset: 0), "the snapshot's L1 table lies out of range (file offset 0x0)"),
        (SnapshotEntry(l1Offset: 1 << 50), "the snapshot's L1 table lies out of range (file offset 0x4000000000000)"),
        (
            SnapshotEntry(l1Offset: ~511),
            "the snapshot's L1 table lies out of range (file offset 0xfffffffffffffe00)"
        ),
        (SnapshotEntry(l1Offset: 0x1000), "the snapshot's L1 table lies out of range (file offset 0x1000)"),
    ]
    @Test(arguments: 0..<l1Refusals.count) func l1TableOfASnapshotIsJudged(_ index: Int) throws {
        let (entry, line) = Self.l1Refusals[index]
        let image = ImageBytes(snapshots: [entry])
        let error = #expect(throws: ImageError.self) { try image.map(of: image.snapshots()[0]) }
        #expect(error?.description == line)
    }

    @Test func emptySnapshotMayHaveAnyL1Offset() throws {
        let image = ImageBytes(snapshots: [
            SnapshotEntry(l1Offset: .max, l1Entries: 0, extra: big(UInt64(0)) + big(UInt64(511)))
        ])
        #expect(try image.map(of: image.snapshots()[0]).size == 0)
    }

    @Test func entriesThatAreReadInPiecesAreWhole() throws {
        var entries: [SnapshotEntry] = []
        for i in 0..<400 {
            entries.append(SnapshotEntry(id: "\(i)", name: String(repeating: "n", count: i * 7 % 900)))
        }
        entries[200].extra += [UInt8](repeating: 1, count: 70_000)
        let list = try ImageBytes(snapshots: entries).snapshots()
        #expect(list.map(\.name) == entries.map(\.name) && list.map(\.id) == entries.map(\.id))
    }
}
