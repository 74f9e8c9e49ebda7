// The fixed part of the header, decoded field by field and validated at the door, so that the rest of the program
// never meets an impossible cluster size or a table that cannot exist.

public import DiskTypes

/// The QCOW2 header (specification: "Header"), versions 2 and 3. A value of this type is in range in every field.
public struct Header: Sendable {
    /// The first four bytes: "QFI" and 0xfb.
    public static let magic: UInt32 = 0x5146_49fb
    /// Bytes that the longest known header takes.
    static let knownBytes = 112

    /// crypt_method: how data clusters are encrypted.
    public enum Encryption: UInt32, Sendable {
        /// Data is plain.
        case none = 0
        /// Legacy AES-CBC by a plain password.
        case aes = 1
        /// LUKS, version 1; its header is an extension.
        case luks = 2
    }

    /// 2 or 3.
    public let version: UInt32
    /// Where the backing file's name begins, inside the first cluster; 0: there is none.
    public let backingNameOffset: UInt64
    /// Bytes of the backing file's name.
    public let backingNameSize: UInt32
    /// Bytes of a cluster: 2 to this power.
    public let clusterBits: UInt32
    /// Bytes of the guest's disk as the header has them; `diskSize` is what a guest sees.
    public private(set) var size: UInt64
    /// How data clusters are encrypted.
    public let encryption: Encryption
    /// Entries of the active L1 table, of 8 bytes each.
    public let l1Entries: UInt32
    /// Where the active L1 table is.
    public let l1Offset: HostOffset
    /// Where the refcount table is.
    public let refcountTableOffset: HostOffset
    /// Clusters that the refcount table takes.
    public let refcountTableClusters: UInt32
    /// Entries of the snapshot table.
    public let snapshotCount: UInt32
    /// Where the snapshot table is.
    public let snapshotsOffset: HostOffset
    /// Features that a reader must know; none in version 2.
    public let incompatible: IncompatibleFeatures
    /// Features that may be ignored; none in version 2.
    public let compatible: CompatibleFeatures
    /// Features that a writer clears which does not know them; none in version 2.
    public let autoclear: AutoclearFeatures
    /// Bits of a refcount: 2 to this power; 4 in version 2.
    public let refcountOrder: UInt32
    /// Bytes of the header itself: 72 in version 2, 104 or more in version 3.
    public let length: UInt32
    /// How compressed clusters are compressed (compression_type).
    public let compression: CompressionMethod

    /// Bytes of a cluster.
    public var clusterSize: UInt64 { 1 << UInt64(clusterBits) }
    /// Bits of a refcount.
    public var refcountBits: Int { 1 << Int(refcountOrder) }
    /// The header's size in whole sectors: what QEMU shows to a guest.
    public var diskSize: UInt64 { size & ~511 }
    /// L2 entries are extended: a cluster has 32 subclusters.
    public var hasSubclusters: Bool { incompatible.contains(.extendedL2) }
    /// Data is in a file of its own.
    public var hasExternalData: Bool { incompatible.contains(.externalDataFile) }
    /// Bytes of an L2 entry.
    public var l2EntryBytes: UInt64 { hasSubclusters ? 16 : 8 }
    /// Guest bytes that one L2 table maps: 2 to this power.
    public var l2CoverageBits: UInt64 { UInt64(clusterBits) * 2 - (hasSubclusters ? 4 : 3) }
    /// L1 entries needed to map `bytes` of guest disk.
    public func l1EntriesNeeded(for bytes: UInt64) -> UInt64 {
        bytes == 0 ? 0 : ((bytes - 1) >> l2CoverageBits) + 1
    }

    /// The same image with a disk of `newSize` bytes, for which its L1 table must have room.
    func resized(to newSize: UInt64) throws(ImageError) -> Header {
        guard newSize <= Limits.virtualSize, l1EntriesNeeded(for: newSize) <= UInt64(l1Entries) else {
            throw .unsupported("the L1 table is too small for a disk of \(newSize) bytes")
        }
        var header = self
        header.size = newSize
        return header
    }

    /// Whether a refcount table that cannot be used is an error. To a check it is a finding, and repair makes a new one.
    enum RefcountTable { case required, unjudged }

    /// Decodes and validates the fixed part. Header extensions are not looked at; unknown incompatible bits are left to the
    /// caller, which can name them once the feature name table is read.
    public init(_ b: BigEndianBytes) throws(ImageError) { try self.init(b, refcountTable: .required) }

    init(_ b: BigEndianBytes, refcountTable: RefcountTable) throws(ImageError) {
        guard b.count >= 8, try b.u32(at: 0) == Self.magic else {
            throw .malformed(
                "not a qcow2 image: the magic number is missing", advice: "say -f raw if it is a raw image")
        }
        version = try b.u32(at: 4)
        guard version == 2 || version == 3 else {
            throw .unsupported("qcow2 version \(version) is not known", advice: "versions 2 and 3 are")
        }
        guard b.count >= (version == 2 ? 72 : 104) else {
            throw .malformed("the header is cut off", advice: "the image is truncated")
        }
        backingNameOffset = try b.u64(at: 8)
        backingNameSize = try b.u32(at: 16)
        clusterBits = try b.u32(at: 20)
        size = try b.u64(at: 24)
        let crypt = try b.u32(at: 32)
        l1Entries = try b.u32(at: 36)
        l1Offset = HostOffset(try b.u64(at: 40))
        refcountTableOffset = HostOffset(try b.u64(at: 48))
        refcountTableClusters = try b.u32(at: 56)
        snapshotCount = try b.u32(at: 60)
        snapshotsOffset = HostOffset(try b.u64(at: 64))
        let v3 = version == 3
        incompatible = IncompatibleFeatures(rawValue: v3 ? try b.u64(at: 72) : 0)
        compatible = CompatibleFeatures(rawValue: v3 ? try b.u64(at: 80) : 0)
        autoclear = AutoclearFeatures(rawValue: v3 ? try b.u64(at: 88) : 0)
        refcountOrder = v3 ? try b.u32(at: 96) : 4
        length = v3 ? try b.u32(at: 100) : 72
        guard let encryption = Encryption(rawValue: crypt) else {
            throw .unsupported("encryption method \(crypt) is not known")
        }
        self.encryption = encryption
        compression = try Self.compressionMethod(b, length: length, incompatible: incompatible)
        try validate(refcountTable)
    }

    private static func compressionMethod(
        _ b: BigEndianBytes, length: UInt32, incompatible: IncompatibleFeatures
    ) throws(ImageError) -> CompressionMethod {
        let type = length > 104 && b.count > 104 ? try b.u8(at: 104) : 0
        guard let method = CompressionMethod(rawValue: type) else {
            throw .unsupported("compression type \(type) is not known", advice: "zlib and zstd are")
        }
        guard (type != 0) == incompatible.contains(.compressionType) else {
            throw .malformed("the compression type and its feature bit contradict each other", at: HostOffset(104))
        }
        return method
    }

    private func validate(_ refcountTable: RefcountTable) throws(ImageError) {
        guard Limits.clusterBits.contains(clusterBits) else {
            throw .malformed(
                "cluster size 2^\(clusterBits) is out of range", at: HostOffset(20),
                advice: "512 bytes to 2 MiB are possible")
        }
        if hasSubclusters, clusterBits < Limits.clusterBitsForSubclusters {
            throw .malformed("extended L2 entries need clusters of at least 16 KiB", at: HostOffset(20))
        }
        guard refcountOrder <= Limits.refcountOrder else {
            throw .malformed(
                "refcount width 2^\(refcountOrder) is out of range", at: HostOffset(96),
                advice: "1 to 64 bits are possible")
        }
        if version == 3 {
            guard length >= 104, UInt64(length) <= clusterSize else {
                throw .malformed("header length \(length) is out of range", at: HostOffset(100))
            }
        }
        guard size <= Limits.virtualSize else {
            throw .malformed("the virtual size \(size) is too big", at: HostOffset(24))
        }
        if autoclear.contains(.rawExternalData), !hasExternalData {
            throw .malformed("the raw data file flag is set without an external data file", at: HostOffset(88))
        }
        try validateTables()
        if refcountTable == .required { try validateRefcountTable() }
    }

    private func validateTables() throws(ImageError) {
        guard l1EntriesNeeded(for: size) <= UInt64(l1Entries) else {
            throw .malformed("the L1 table is too small for the virtual size", at: HostOffset(36))
        }
        try checkTable("L1 table", l1Offset, bytes: UInt64(l1Entries) * 8, limit: Limits.l1Bytes)
        guard snapshotCount <= Limits.snapshots else {
            throw .malformed("\(snapshotCount) snapshots are more than possible", at: HostOffset(60))
        }
        if snapshotCount > 0 {
            try checkTable(
                "snapshot table", snapshotsOffset, bytes: 40 * UInt64(snapshotCount),
                limit: Limits.snapshotTableBytes)
        }
    }

    private func validateRefcountTable() throws(ImageError) {
        guard refcountTableClusters > 0 else {
            throw .malformed("the image has no refcount table", at: HostOffset(56), advice: "repair it first")
        }
        try checkTable(
            "refcount table", refcountTableOffset, bytes: UInt64(refcountTableClusters) * clusterSize,
            limit: Limits.refcountTableBytes)
        if l1Entries > 0,
            overlaps(
                l1Offset, UInt64(l1Entries) * 8, refcountTableOffset,
                UInt64(refcountTableClusters) * clusterSize)
        {
            throw .malformed("the L1 table and the refcount table overlap", at: l1Offset)
        }
    }

    private func checkTable(_ name: String, _ at: HostOffset, bytes: UInt64, limit: UInt64) throws(ImageError) {
        guard bytes <= limit else {
            throw .malformed("the \(name) claims \(bytes) bytes, more than possible", advice: "at most \(limit) are")
        }
        guard bytes > 0 else { return }
        guard at.bytes & (clusterSize - 1) == 0 else {
            throw .malformed("the \(name) is not cluster aligned", at: at)
        }
        guard at.bytes < Limits.hostOffset else { throw .malformed("the \(name) lies out of range", at: at) }
        guard at.bytes >= clusterSize else { throw .malformed("the \(name) overlaps the header", at: at) }
    }

    private func overlaps(_ a: HostOffset, _ aBytes: UInt64, _ b: HostOffset, _ bBytes: UInt64) -> Bool {
        a.bytes < b.bytes + bBytes && b.bytes < a.bytes + aBytes
    }
}
