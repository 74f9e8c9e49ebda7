// Malformed images are good ones with a few bytes changed. The patcher knows where the fields of a QCOW2 file lie, on
// its own account: it shares no code with what it tests.

public import Foundation

/// The bytes of an image (small ones only), changed in memory and written back by `save`.
public struct Patcher {
    public var bytes: Data
    private let path: String

    public init(_ path: String) throws {
        self.path = path
        bytes = try Data(contentsOf: URL(filePath: path))
    }

    public func save() throws { try bytes.write(to: URL(filePath: path)) }

    /// Header fields by the specification's names, with their offset and width in bytes.
    public enum Field: Sendable {
        case magic, version, backingOffset, backingSize, clusterBits, size, crypt, l1Size, l1Offset
        case refcountOffset, refcountClusters, snapshotCount, snapshotsOffset
        case incompatible, compatible, autoclear, refcountOrder, headerLength, compression

        var place: (offset: Int, width: Int) {
            switch self {
            case .magic: (0, 4)
            case .version: (4, 4)
            case .backingOffset: (8, 8)
            case .backingSize: (16, 4)
            case .clusterBits: (20, 4)
            case .size: (24, 8)
            case .crypt: (32, 4)
            case .l1Size: (36, 4)
            case .l1Offset: (40, 8)
            case .refcountOffset: (48, 8)
            case .refcountClusters: (56, 4)
            case .snapshotCount: (60, 4)
            case .snapshotsOffset: (64, 8)
            case .incompatible: (72, 8)
            case .compatible: (80, 8)
            case .autoclear: (88, 8)
            case .refcountOrder: (96, 4)
            case .headerLength: (100, 4)
            case .compression: (104, 1)
            }
        }
    }

    public subscript(field: Field) -> UInt64 {
        get { number(at: field.place.offset, width: field.place.width) }
        set { put(newValue, at: field.place.offset, width: field.place.width) }
    }

    /// A big-endian number.
    public func number(at offset: Int, width: Int = 8) -> UInt64 {
        bytes[offset..<offset + width].reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Stores a big-endian number; the file grows when it must.
    public mutating func put(_ value: UInt64, at offset: Int, width: Int = 8) {
        grow(to: offset + width)
        for index in 0..<width {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * (width - 1 - index)))
        }
    }

    public mutating func put(_ data: some Sequence<UInt8>, at offset: Int) {
        let data = Array(data)
        grow(to: offset + data.count)
        bytes.replaceSubrange(offset..<offset + data.count, with: data)
    }

    public mutating func grow(to size: Int) {
        if bytes.count < size { bytes.append(Data(count: size - bytes.count)) }
    }

    public mutating func truncate(to size: Int) { bytes = bytes.prefix(size) }

    // MARK: tables

    public static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00
    public var clusterSize: Int { 1 << Int(self[.clusterBits]) }
    public var entrySize: Int { self[.version] >= 3 && self[.incompatible] & 16 != 0 ? 16 : 8 }
    public var entriesPerL2: Int { clusterSize / entrySize }

    /// Where the L1 entry of a guest offset lies in the file.
    public func l1(_ guest: Int) -> Int { Int(self[.l1Offset]) + guest / clusterSize / entriesPerL2 * 8 }

    /// Where the L2 table of a guest offset lies.
    public func l2Table(_ guest: Int) -> Int { Int(number(at: l1(guest)) & Self.offsetMask) }

    /// Where the L2 entry of a guest offset lies.
    public func l2(_ guest: Int) -> Int { l2Table(guest) + guest / clusterSize % entriesPerL2 * entrySize }

    /// Where the data of a plain cluster lies.
    public func data(_ guest: Int) -> Int { Int(number(at: l2(guest)) & Self.offsetMask) }

    /// The byte offset of a compressed cluster's stream.
    public func compressedData(_ guest: Int) -> Int {
        let bits = 62 - (Int(self[.clusterBits]) - 8)
        return Int(number(at: l2(guest)) & (1 << UInt64(bits) - 1))
    }

    /// Sets the (16-bit) refcount of a cluster counted by the first refcount block.
    public mutating func setRefcount(_ count: UInt64, of cluster: Int) {
        let block = Int(number(at: Int(self[.refcountOffset])))
        put(count, at: block + cluster * 2, width: 2)
    }

    /// Adds a whole cluster at the end of the file and returns its offset.
    public mutating func appendCluster(_ content: some Sequence<UInt8> = []) -> Int {
        let offset = (bytes.count + clusterSize - 1) / clusterSize * clusterSize
        grow(to: offset + clusterSize)
        put(content, at: offset)
        return offset
    }

    // MARK: header extensions

    /// Every header extension: type, and where its data lies.
    public func extensions() -> [(type: UInt32, data: Range<Int>)] {
        var found: [(type: UInt32, data: Range<Int>)] = []
        var offset = self[.version] >= 3 ? Int(self[.headerLength]) : 72
        while offset + 8 <= min(clusterSize, bytes.count) {
            let type = UInt32(number(at: offset, width: 4))
            let length = Int(number(at: offset + 4, width: 4))
            if type == 0 || offset + 8 + length > bytes.count { break }
            found.append((type, offset + 8..<offset + 8 + length))
            offset += 8 + (length + 7) / 8 * 8
        }
        return found
    }

    /// The data of the extension of one type.
    public func data(ofExtension type: UInt32) -> Range<Int>? { extensions().first { $0.type == type }?.data }

    /// Puts an extension before all others. The image must have no backing name (it would have to move).
    public mutating func insertExtension(_ type: UInt32, _ content: [UInt8], length: UInt32? = nil) {
        let start = self[.version] >= 3 ? Int(self[.headerLength]) : 72
        var added: [UInt8] = []
        for shift in [24, 16, 8, 0] { added.append(UInt8(truncatingIfNeeded: type >> UInt32(shift))) }
        let said = length ?? UInt32(content.count)
        for shift in [24, 16, 8, 0] { added.append(UInt8(truncatingIfNeeded: said >> UInt32(shift))) }
        added += content + [UInt8](repeating: 0, count: (8 - content.count % 8) % 8)
        let end = extensions().last.map { ($0.data.upperBound + 7) / 8 * 8 } ?? start
        let old = Array(bytes[start..<end])
        put(added + old + [UInt8](repeating: 0, count: 8), at: start)
    }

    /// Removes all header extensions.
    public mutating func removeExtensions() {
        let start = self[.version] >= 3 ? Int(self[.headerLength]) : 72
        guard let end = extensions().last?.data.upperBound else { return }
        put([UInt8](repeating: 0, count: end - start), at: start)
    }
}
