// The words of L1 and L2 tables, and the rules that they are held against once, when their table is loaded. What
// remains is either a right entry or a damage mark in the same word, so a lookup checks nothing and cannot be led
// astray.

import DiskTypes

/// A mapping word in host byte order. Valid words are as on disk; a broken one is replaced by a damage mark, which
/// sets reserved bit 1 (zero in every valid, uncompressed entry) and carries the reason in bits 2 to 8.
struct MappingWord {
    static let copied: UInt64 = 1 << 63
    static let compressed: UInt64 = 1 << 62
    static let zeroFlag: UInt64 = 1
    static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00
    static let l1Reserved: UInt64 = 0x7f00_0000_0000_01ff
    static let l2Reserved: UInt64 = 0x3f00_0000_0000_01fe

    let raw: UInt64
    init(_ raw: UInt64) { self.raw = raw }
    init(damage reason: MapDamage.Reason) { raw = 1 << 1 | UInt64(reason.rawValue) << 2 }

    var isCompressed: Bool { raw & Self.compressed != 0 }
    var hasZeroFlag: Bool { raw & Self.zeroFlag != 0 }
    var offset: UInt64 { raw & Self.offsetMask }
    var isDamaged: Bool { raw & (Self.compressed | 1 << 1) == 1 << 1 }
    /// The entry without COPIED: in a table that a snapshot shares, no cluster is this image's alone, whatever the
    /// entry claims. (At offset 0 of an external data file the flag means something else: mapped.)
    var ofSharedTable: MappingWord { offset == 0 || isDamaged ? self : MappingWord(raw & ~Self.copied) }
    var damage: MapDamage.Reason { MapDamage.Reason(rawValue: UInt8(raw >> 2 & 0x7f)) ?? .reservedBits }
}

/// Judges entries of one layer.
struct EntryValidator: Sendable {
    let clusterBits: UInt64
    let version: UInt32
    let subclusters: Bool
    let external: Bool
    /// Bytes of the file that holds the tables, and of the one that holds the data.
    var fileLength: UInt64
    var dataLength: UInt64
    let areas: MetadataAreas
    var guarded = ForbiddenClusters()

    var clusterSize: UInt64 { 1 << clusterBits }
    /// Bits of a compressed entry that are the byte offset (specification: x = 62 - (cluster_bits - 8)).
    var compressedOffsetBits: UInt64 { 62 - (clusterBits - 8) }

    func validateL1(_ raw: UInt64) -> UInt64 {
        let word = MappingWord(raw)
        guard raw & MappingWord.l1Reserved == 0 else { return damage(.reservedBits) }
        guard word.offset != 0 else { return 0 }
        guard word.offset & (clusterSize - 1) == 0 else { return damage(.misaligned) }
        guard word.offset < fileLength else { return damage(.beyondEndOfFile) }
        guard !areas.contains(word.offset) else { return damage(.overlapsMetadata) }
        return raw
    }

    /// `guest` is the cluster's own guest offset, `table` the L2 table it stands in.
    func validateL2(_ raw: UInt64, guest: UInt64, table: UInt64) -> UInt64 {
        let word = MappingWord(raw)
        if word.isCompressed { return validateCompressed(raw) }
        let reserved = MappingWord.l2Reserved | (subclusters ? MappingWord.zeroFlag : 0)
        guard raw & reserved == 0 else { return damage(.reservedBits) }
        guard word.offset & (clusterSize - 1) == 0 else { return damage(.misaligned) }
        guard version >= 3 || !word.hasZeroFlag else { return damage(.zeroFlagInVersion2) }
        if external {
            let mapped = word.offset != 0 || raw & MappingWord.copied != 0
            guard !mapped || word.offset == guest else { return damage(.externalOffsetMismatch) }
            guard !mapped || isReadable(word) else { return damage(.beyondEndOfFile) }
            return raw
        }
        guard word.offset != 0 else { return raw }
        guard isReadable(word), !guarded.missing.contains(word.offset >> clusterBits) else {
            return damage(.beyondEndOfFile)
        }
        guard word.offset != table, !areas.contains(word.offset), !guarded.tables.contains(word.offset >> clusterBits)
        else {
            return damage(.overlapsMetadata)
        }
        return raw
    }

    /// Whether the cluster is in the file, or need not be. Of an extended entry only the subclusters can tell.
    private func isReadable(_ word: MappingWord) -> Bool {
        word.offset < dataLength || word.hasZeroFlag || subclusters
    }

    /// The two words of an extended entry: bit s of the low half = subcluster s is allocated, of the high half = zero.
    func validateExtended(_ raw: UInt64, _ bitmap: UInt64, guest: UInt64, table: UInt64) -> (UInt64, UInt64) {
        let judged = MappingWord(validateL2(raw, guest: guest, table: table))
        if judged.isDamaged { return (judged.raw, 0) }
        if judged.isCompressed { return bitmap == 0 ? (judged.raw, 0) : (damage(.badSubclusterBitmap), 0) }
        let allocated = bitmap & 0xffff_ffff
        guard allocated & (bitmap >> 32) == 0 else { return (damage(.badSubclusterBitmap), 0) }
        guard allocated != 0 else { return (judged.raw, bitmap) }
        let hasCluster = judged.offset != 0 || (external && raw & MappingWord.copied != 0)
        guard hasCluster else { return (damage(.badSubclusterBitmap), 0) }
        guard judged.offset < dataLength else { return (damage(.beyondEndOfFile), 0) }
        return (judged.raw, bitmap)
    }

    private func validateCompressed(_ raw: UInt64) -> UInt64 {
        guard !external else { return damage(.compressedInExternalData) }
        let (at, count) = compressedRange(raw)
        guard at < dataLength, !guarded.missing.contains(at >> clusterBits) else { return damage(.beyondEndOfFile) }
        guard !areas.contains(at) else { return damage(.overlapsMetadata) }
        guard !guarded.tables.isEmpty else { return raw }
        // Who gives a stream up gives up each cluster that it touches.
        for cluster in at >> clusterBits...(at + count - 1) >> clusterBits where guarded.tables.contains(cluster) {
            return damage(.overlapsMetadata)
        }
        return raw
    }

    /// First byte and number of bytes of a compressed stream, its last sector whole.
    func compressedRange(_ raw: UInt64) -> (host: UInt64, bytes: UInt64) {
        let bits = compressedOffsetBits
        let host = raw & ((1 << bits) - 1)
        let moreSectors = (raw & ~(MappingWord.compressed | MappingWord.copied)) >> bits
        return (host, (moreSectors + 1) * 512 - (host & 511))
    }

    private func damage(_ reason: MapDamage.Reason) -> UInt64 { MappingWord(damage: reason).raw }
}
