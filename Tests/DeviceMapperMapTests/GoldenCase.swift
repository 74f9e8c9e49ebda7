// Golden cases are text, so that people can read and write them; this reads one.

import DeviceMapperMap
import DiskTypes
import Foundation

/// A disk and what it is made of, as formats/dm-table/golden writes it.
struct GoldenCase {
    var size: UInt64 = 0
    var files: [UInt64] = []
    var extents: [Extent] = []
    /// Damage, by its place among the extents.
    var damage: [Int: MapDamage] = [:]

    struct Unreadable: Error { let line: String }

    static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../formats/dm-table").standardizedFileURL

    init(_ text: String) throws {
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.split(separator: " ").map(String.init)
            let numbers = words.map { UInt64($0) }
            guard words.count > 1, let number = numbers[1] else { throw Unreadable(line: String(line)) }
            switch words[0] {
            case "size": size = number
            case "file": files.append(number)
            default: try add(words, numbers, String(line))
            }
        }
    }

    private mutating func add(_ words: [String], _ numbers: [UInt64?], _ line: String) throws {
        guard words.count > 2, let guest = numbers[0], let length = numbers[1] else { throw Unreadable(line: line) }
        let start = GuestOffset(guest)
        if words[2] == "damaged" {
            damage[extents.count] = MapDamage(
                reason: .misaligned, guest: start, length: length, table: HostOffset(0))
        }
        let kinds: [String: ExtentKind] = [
            "damaged": .zero, "data": .data, "zero": .zero, "zeroAllocated": .zeroAllocated,
            "unallocated": .unallocated, "unallocatedReserved": .unallocatedReserved, "compressed": .compressed,
        ]
        guard let kind = kinds[words[2]] else { throw Unreadable(line: line) }
        var extent = Extent(guest: start, length: length, kind: kind)
        if words.count > 4, let file = numbers[3], let host = numbers[4] {
            extent.file = UInt16(file)
            extent.host = HostOffset(host)
        }
        extents.append(extent)
    }

    /// The table that the builder makes of it.
    func table() throws(DMUnsupported) -> DMTable {
        var builder = try DMTableBuilder(size: size, fileLengths: files)
        for (index, extent) in extents.enumerated() {
            if let broken = damage[index] { try builder.add(broken) } else { try builder.add(extent) }
        }
        return try builder.finish()
    }
}
