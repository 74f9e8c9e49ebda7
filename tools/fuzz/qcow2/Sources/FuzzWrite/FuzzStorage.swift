// The file that an image is written in, in memory. It knows what may be written where: data never into tables, tables
// never over the header but for its fields, nothing past the bound; and it makes given-back space unreadable.

import DiskTypes
import FuzzKit
import QCOW2

final class FuzzStorage: ResizableStorage {
    /// Why something is written.
    enum Purpose { case data, tables }

    private(set) var bytes: [UInt8]
    private(set) var length: UInt64
    /// No byte past it: the device is full.
    let limit: UInt64
    var purpose = Purpose.tables
    /// Where tables are that only table writes may touch; nil: an external data file.
    var tables: Tables?
    /// A write or a growth was refused.
    private(set) var wasFull = false

    init(_ bytes: [UInt8], room: UInt64) {
        self.bytes = bytes
        length = UInt64(bytes.count)
        limit = length + room
    }

    func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        guard count > 0, offset.bytes < length else { return [] }
        let wanted = Int(min(UInt64(count), length - offset.bytes))
        let start = min(Int(offset.bytes), bytes.count)
        let there = min(wanted, bytes.count - start)
        return Array(bytes[start..<start + there]) + [UInt8](repeating: 0, count: wanted - there)
    }

    func write(at offset: HostOffset, _ new: [UInt8]) throws(ImageError) {
        guard !new.isEmpty else { return }
        let (end, overflow) = offset.bytes.addingReportingOverflow(UInt64(new.count))
        require(!overflow && end <= Limits.hostOffset, "a write at \(offset) of \(new.count)")
        tables?.judge(offset.bytes..<end, purpose)
        guard end <= limit else {
            wasFull = true
            throw ImageError(.system, "planned: full", at: offset)
        }
        grow(to: end)
        bytes.replaceSubrange(Int(offset.bytes)..<Int(end), with: new)
        length = max(length, end)
    }

    private func grow(to end: UInt64) {
        if UInt64(bytes.count) < end { bytes += [UInt8](repeating: 0, count: Int(end) - bytes.count) }
    }

    func sync() throws(ImageError) {}
    var canGrow: Bool { true }

    /// The length is only a number: the writer grows files in steps of many MiB.
    func truncate(to newLength: UInt64) throws(ImageError) {
        guard newLength <= limit + (1 << 30) else {
            wasFull = true
            throw ImageError(.system, "planned: full")
        }
        if newLength < UInt64(bytes.count) { bytes.removeLast(bytes.count - Int(newLength)) }
        length = newLength
    }

    func discard(at offset: HostOffset, length: UInt64) {
        let (end, overflow) = offset.bytes.addingReportingOverflow(length)
        require(!overflow, "a discard at \(offset) of \(length)")
        tables?.judge(offset.bytes..<end, .data)
        guard offset.bytes < UInt64(bytes.count) else { return }
        for i in Int(offset.bytes)..<min(Int(end), bytes.count) { bytes[i] = 0xdd }
    }
}

/// Clusters of the tables that the file itself names, read by nothing of the code under test but the header.
struct Tables {
    private var clusters: Set<UInt64> = []
    private let l1: Range<UInt64>
    private let bits: UInt64

    init(_ header: Header, _ storage: FuzzStorage) {
        bits = UInt64(header.clusterBits)
        l1 = header.l1Offset.bytes..<header.l1Offset.bytes + header.l1EntriesNeeded(for: header.size) * 8
        add(0, 1 << bits)
        add(l1.lowerBound, UInt64(l1.count))
        // The header's own field: the table may have moved.
        let place = Tables.words(storage, 48, 1).first ?? 0
        let size = ((Tables.words(storage, 56, 1).first ?? 0) >> 32) << bits
        add(place, size)
        for word in Tables.words(storage, place, size / 8) { add(word & ~511, 1 << bits) }
        for word in Tables.words(storage, l1.lowerBound, UInt64(l1.count) / 8) {
            let offset = word & 0x00ff_ffff_ffff_fe00
            if word & 0x7f00_0000_0000_01ff == 0, offset & (1 << bits - 1) == 0 { add(offset, 1 << bits) }
        }
    }

    private static func words(_ storage: FuzzStorage, _ at: UInt64, _ count: UInt64) -> [UInt64] {
        // A table that is mostly past the end of the file names nothing there.
        let bytes = (try? storage.read(at: HostOffset(at), count: Int(min(count, 1 << 20)) * 8)) ?? []
        return (0..<bytes.count / 8).map { i in bytes[i * 8..<i * 8 + 8].reduce(0) { $0 << 8 | UInt64($1) } }
    }

    private mutating func add(_ start: UInt64, _ length: UInt64) {
        guard length > 0, start != 0 || clusters.isEmpty else { return }
        for cluster in start >> bits...(start + length - 1) >> bits { clusters.insert(cluster) }
    }

    /// Those of them that were there at the beginning: in an image that is wrong, an entry may name what becomes a table.
    func those(of first: Tables) -> Tables {
        var some = self
        some.clusters.formIntersection(first.clusters)
        return some
    }

    func judge(_ range: Range<UInt64>, _ purpose: FuzzStorage.Purpose) {
        if purpose == .data {
            for cluster in range.lowerBound >> bits...(range.upperBound - 1) >> bits {
                require(!clusters.contains(cluster), "data at \(range) goes into a table")
            }
        }
        if purpose == .tables, range.lowerBound < 1 << bits {
            let fields: [Range<UInt64>] = [48..<60, 72..<80, 88..<96]
            require(fields.contains(range), "a write at \(range) goes over the header")
        }
        if purpose == .tables, range.overlaps(l1) {
            require(range.count == 8 && range.lowerBound & 7 == 0, "a write at \(range) goes over L1")
        }
    }
}
