// Every mapping entry is judged once, here; what a lookup later believes is what these tables say.

import DiskTypes
import Testing

@testable import QCOW2

@Suite struct EntryValidatorTests {
    static let length: UInt64 = 0x10_0000
    /// 64 KiB clusters: header, refcount table, L1 table in the first three.
    static func rules(
        version: UInt32 = 3, subclusters: Bool = false, external: Bool = false, bits: UInt32 = 16
    ) throws -> EntryValidator {
        var image = ImageBytes(clusterBits: bits, size: 1 << 20)
        image.put(UInt32(1), at: 60)
        image.put(UInt64(4) << UInt64(bits), at: 64)
        let header = try image.header()
        return EntryValidator(
            clusterBits: UInt64(bits), version: version, subclusters: subclusters, external: external,
            fileLength: length, dataLength: length,
            areas: MetadataAreas(header, l1Offset: header.l1Offset, l1Bytes: 8))
    }
    static let copied: UInt64 = 1 << 63

    enum Verdict: Equatable, Sendable { case kept, empty, damaged(MapDamage.Reason) }
    func verdict(_ raw: UInt64, _ judged: UInt64) -> Verdict {
        if MappingWord(judged).isDamaged { return .damaged(MappingWord(judged).damage) }
        return judged == raw ? .kept : .empty
    }

    static let l1: [(UInt64, Verdict)] = [
        (0, .kept), (copied, .empty), (0x50000, .kept), (copied | 0x50000, .kept), (0xf0000, .kept),
        (0x50001, .damaged(.reservedBits)), (0x50100, .damaged(.reservedBits)),
        (0x50000 | 1 << 56, .damaged(.reservedBits)), (0x50000 | 1 << 62, .damaged(.reservedBits)),
        (0x50200, .damaged(.misaligned)), (0x58000, .damaged(.misaligned)),
        (0x100000, .damaged(.beyondEndOfFile)), (0xff_ffff_ffff_0000, .damaged(.beyondEndOfFile)),
        (0x10000, .damaged(.overlapsMetadata)), (0x20000, .damaged(.overlapsMetadata)),
        (0x40000, .damaged(.overlapsMetadata)), (.max, .damaged(.reservedBits)),
    ]
    @Test(arguments: l1) func l1Entry(_ raw: UInt64, _ expected: Verdict) throws {
        #expect(verdict(raw, try Self.rules().validateL1(raw)) == expected)
    }

    static let l2: [(UInt64, Verdict)] = [
        (0, .kept), (1, .kept), (copied, .kept), (0x60000, .kept), (copied | 0x60000, .kept), (0x60001, .kept),
        (0x100001, .kept),  // zero flag: the cluster is not read
        (0x60002, .damaged(.reservedBits)), (0x60100, .damaged(.reservedBits)),
        (0x60000 | 1 << 61, .damaged(.reservedBits)), (0x60000 | 1 << 56, .damaged(.reservedBits)),
        (0x60200, .damaged(.misaligned)), (0x100000, .damaged(.beyondEndOfFile)),
        (0xff_ffff_ffff_0000, .damaged(.beyondEndOfFile)), (0x10000, .damaged(.overlapsMetadata)),
        (0x20000, .damaged(.overlapsMetadata)), (0x40000, .damaged(.overlapsMetadata)),
        (0x50000, .damaged(.overlapsMetadata)),  // the L2 table itself
    ]
    @Test(arguments: l2) func l2Entry(_ raw: UInt64, _ expected: Verdict) throws {
        #expect(verdict(raw, try Self.rules().validateL2(raw, guest: 0x70000, table: 0x50000)) == expected)
    }

    @Test(arguments: [1, 0x60001, copied | 1] as [UInt64]) func version2KnowsNoZeroClusters(_ raw: UInt64) throws {
        let judged = try Self.rules(version: 2).validateL2(raw, guest: 0, table: 0x50000)
        #expect(verdict(raw, judged) == .damaged(.zeroFlagInVersion2))
    }

    /// Guest offset, entry. Offset 0 is the cluster at host 0 where the copied bit is set.
    static let external: [(UInt64, UInt64, Verdict)] = [
        (0x70000, 0, .kept), (0x70000, 1, .kept), (0x70000, 0x70000, .kept), (0x70000, copied | 0x70000, .kept),
        (0, copied, .kept), (0, 0, .kept), (0x70000, copied, .damaged(.externalOffsetMismatch)),
        (0x70000, 0x60000, .damaged(.externalOffsetMismatch)), (0x20000, copied | 0x20000, .kept),
        (0x100000, 0x100000, .damaged(.beyondEndOfFile)), (0x100000, 0x100001, .kept),
        (0x70000, 1 << 62 | 0x70000, .damaged(.compressedInExternalData)),
    ]
    @Test(arguments: external) func externalEntry(_ guest: UInt64, _ raw: UInt64, _ expected: Verdict) throws {
        let judged = try Self.rules(external: true).validateL2(raw, guest: guest, table: 0x50000)
        #expect(verdict(raw, judged) == expected)
    }

    static let extended: [(UInt64, UInt64, Verdict)] = [
        (0, 0, .kept), (0, 0xffff_ffff << 32, .kept), (0x60000, 0, .kept), (0x60000, 0xffff_ffff, .kept),
        (0x60000, 0x5555_5555_aaaa_aaaa, .kept), (0x60000, 1 << 32 | 1, .damaged(.badSubclusterBitmap)),
        (0, 1, .damaged(.badSubclusterBitmap)), (copied, 1, .damaged(.badSubclusterBitmap)),
        (0x60001, 1, .damaged(.reservedBits)), (1, 0, .damaged(.reservedBits)),
        (0x100000, 1, .damaged(.beyondEndOfFile)), (0x100000, 1 << 40, .kept), (0x100000, 0, .kept),
        (1 << 62 | 0x60000, 0, .kept), (1 << 62 | 0x60000, 1 << 33, .damaged(.badSubclusterBitmap)),
    ]
    @Test(arguments: extended) func extendedEntry(_ raw: UInt64, _ bitmap: UInt64, _ expected: Verdict) throws {
        let judged = try Self.rules(subclusters: true).validateExtended(raw, bitmap, guest: 0, table: 0x50000)
        #expect(verdict(raw, judged.0) == expected)
        #expect(judged.1 == (expected == .kept ? bitmap : 0))
    }

    static let externalExtended: [(UInt64, UInt64, UInt64, Verdict)] = [
        (0, copied, 1, .kept), (0, 0, 1, .damaged(.badSubclusterBitmap)), (0x70000, 0x70000, 3, .kept),
        (0x70000, 0x60000, 3, .damaged(.externalOffsetMismatch)),
        (0x100000, 0x100000, 1, .damaged(.beyondEndOfFile)), (0x100000, 0x100000, 1 << 32, .kept),
    ]
    @Test(arguments: 0..<externalExtended.count) func externalExtendedEntry(_ index: Int) throws {
        let (guest, raw, bitmap, expected) = Self.externalExtended[index]
        let judged = try Self.rules(subclusters: true, external: true)
            .validateExtended(raw, bitmap, guest: guest, table: 0x50000)
        #expect(verdict(raw, judged.0) == expected)
    }

    // Compressed descriptors: by hand from x = 62 - (bits - 8).

    static let compressed: [(bits: UInt32, raw: UInt64, host: UInt64, bytes: UInt64)] = [
        (9, 1 << 62 | 1 << 61 | 0x1234, 0x1234, 2 * 512 - 0x34),  // x = 61: 1 bit of sectors
        (10, 1 << 62 | 3 << 60 | 0x1400, 0x1400, 4 * 512),
        (11, 1 << 62 | 7 << 59 | 0x1401, 0x1401, 8 * 512 - 1),
        (12, 1 << 62 | 5 << 58 | 0x15ff, 0x15ff, 6 * 512 - 511),
        (13, 1 << 62 | 0x1f << 57 | 0x1400, 0x1400, 32 * 512),
        (14, 1 << 62 | 0 << 56 | 0x1400, 0x1400, 512),
        (15, 1 << 62 | 0x7f << 55 | 0x1400, 0x1400, 128 * 512),
        (16, 1 << 62 | 0xff << 54 | 0x61234, 0x61234, 256 * 512 - 0x34),  // x = 54
        (17, 1 << 62 | 0x101 << 53 | 0x61234, 0x61234, 258 * 512 - 0x34),
        (18, 1 << 62 | 0x3ff << 52 | 0x61234, 0x61234, 1024 * 512 - 0x34),
        (19, 1 << 62 | 1 << 51 | 0x61234, 0x61234, 2 * 512 - 0x34),
        (20, 1 << 62 | 0xfff << 50 | 0x61234, 0x61234, 4096 * 512 - 0x34),
        (21, 1 << 63 | 1 << 62 | 0x1fff << 49 | 0x61234, 0x61234, 8192 * 512 - 0x34),  // x = 49
    ]
    @Test(arguments: 0..<compressed.count) func compressedDescriptor(_ index: Int) throws {
        let c = Self.compressed[index]
        let range = try Self.rules(bits: c.bits).compressedRange(c.raw)
        #expect(range.host == c.host && range.bytes == c.bytes)
    }
    @Test func everyClusterSizeHasACompressedCase() {
        #expect(Self.compressed.map(\.bits) == Array(Limits.clusterBits))
    }

    @Test(
        arguments: [
            (0x60001, .kept), (0xfffff, .kept), (0x100000, .damaged(.beyondEndOfFile)),
            (0xffff, .damaged(.overlapsMetadata)), (0x2ffff, .damaged(.overlapsMetadata)),
            (1 << 53, .damaged(.beyondEndOfFile)),
        ] as [(UInt64, Verdict)]) func compressedEntry(_ host: UInt64, _ expected: Verdict) throws
    {
        let raw = 1 << 62 | host
        #expect(verdict(raw, try Self.rules().validateL2(raw, guest: 0, table: 0x50000)) == expected)
    }

    @Test func masksAreWhereTheTableSays() throws {
        #expect(MappingWord.offsetMask == LayoutTable.row("l1.offset")?.mask)
        #expect(MappingWord.offsetMask == LayoutTable.row("l2.offset")?.mask)
        #expect(MappingWord.copied == LayoutTable.row("l1.copied")?.mask)
        #expect(MappingWord.copied == LayoutTable.row("l2.copied")?.mask)
        #expect(MappingWord.compressed == LayoutTable.row("l2.compressed")?.mask)
        #expect(MappingWord.zeroFlag == LayoutTable.row("l2.zeroFlag")?.mask)
        #expect(MappingWord.l1Reserved == ~LayoutTable.rows("l1").reduce(0) { $0 | $1.mask })
        let first = LayoutTable.rows("l2").filter { $0.offset < 64 }
        #expect(MappingWord.l2Reserved == ~first.reduce(0) { $0 | $1.mask })
        #expect(LayoutTable.row("l2.allocated")?.mask == 0xffff_ffff)
        #expect(LayoutTable.row("l2.zero")?.mask == 0xffff_ffff_0000_0000)
    }

    @Test(arguments: 1...9 as ClosedRange<UInt8>) func damageMarkKeepsItsReason(_ raw: UInt8) throws {
        let reason = try #require(MapDamage.Reason(rawValue: raw))
        let mark = MappingWord(damage: reason)
        #expect(mark.isDamaged && mark.damage == reason && !reason.words.isEmpty)
        let damage = MapDamage(reason: reason, guest: GuestOffset(512), length: 1, table: HostOffset(0))
        #expect(damage.description == "\(reason.words) (guest offset 0x200, in the L1 table)")
    }
}
