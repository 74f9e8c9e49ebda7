// Formats/dm-table is the truth about the numbers of a table; this holds the constants to it.

import DeviceMapperMap
import Foundation
import Testing

@Suite struct LayoutTests {
    @Test func limits() throws {
        let constants: [String: UInt64] = [
            "sectorSize": DMLimits.sectorSize,
            "maxTargets": UInt64(DMLimits.maxTargets),
            "maxIoctlBytes": UInt64(DMLimits.maxIoctlBytes),
            "targetSlackBytes": UInt64(DMLimits.targetSlackBytes),
            "maxDeviceBytes": DMLimits.maxDeviceBytes,
        ]
        let rows = try rows("limits.tsv")
        #expect(Set(rows.map { $0[0] }) == Set(constants.keys))
        for row in rows { #expect(UInt64(row[1]) == constants[row[0]], "\(row[0])") }
    }

    @Test func structures() throws {
        let rows = try rows("layout.tsv")
        #expect(try end(of: "dm_ioctl", in: rows) == DMLimits.headerBytes)
        #expect(try end(of: "dm_target_spec", in: rows) == DMLimits.targetSpecBytes)
        #expect(try width(of: "dm_ioctl.name", in: rows) == DMLimits.maxNameBytes + 1)
        #expect(try width(of: "dm_ioctl.uuid", in: rows) == DMLimits.maxUUIDBytes + 1)
    }

    /// Where a structure ends; its fields must follow each other without gaps.
    private func end(of name: String, in rows: [[String]]) throws -> Int {
        var end = 0
        for row in rows where row[0].hasPrefix(name + ".") {
            #expect(Int(row[1]) == end, "\(row[0])")
            end += try #require(Int(row[2]))
        }
        return end
    }

    private func width(of field: String, in rows: [[String]]) throws -> Int {
        let row = try #require(rows.first { $0[0] == field })
        return try #require(Int(row[2]))
    }

    private func rows(_ file: String) throws -> [[String]] {
        let text = try String(contentsOf: GoldenCase.folder.appendingPathComponent(file), encoding: .utf8)
        return text.split(separator: "\n").dropFirst().map { $0.split(separator: "\t").map(String.init) }
    }
}
