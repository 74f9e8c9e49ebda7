// Formats/qcow2/layout.tsv is the truth about bytes; the tests read it, so that neither it nor the decoder can drift
// alone.

import Foundation
import Testing

/// One row of the table.
struct LayoutRow: Sendable, CustomTestStringConvertible {
    let name: String
    /// Bytes from the start of the structure, or bits from the least significant one of an entry.
    let offset: Int
    let width: Int
    let inBits: Bool
    let since: Int

    var testDescription: String { name }

    /// Where the entry's bits of this row are, within one 64-bit word.
    var mask: UInt64 { (width == 64 ? ~0 : (1 << UInt64(width)) - 1) << UInt64(offset % 64) }
}

enum LayoutTable {
    static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../formats/qcow2").standardizedFileURL

    static let rows = read(folder)
    /// The table of the memory that outlives a killed writer.
    static let journal = read(folder.appendingPathComponent("../mapping-journal").standardizedFileURL)

    private static func read(_ folder: URL) -> [LayoutRow] {
        guard let text = try? String(contentsOf: folder.appendingPathComponent("layout.tsv"), encoding: .utf8) else {
            return []
        }
        return text.split(separator: "\n").dropFirst().compactMap { line in
            let c = line.split(separator: "\t").map(String.init)
            guard c.count == 7, let offset = number(c[1]), let width = number(c[2]), let since = Int(c[4]) else {
                return nil
            }
            return LayoutRow(name: c[0], offset: offset, width: width, inBits: c[1].hasPrefix("b"), since: since)
        }
    }
    private static func number(_ cell: String) -> Int? { Int(cell.hasPrefix("b") ? String(cell.dropFirst()) : cell) }

    /// Rows of one structure.
    static func rows(_ structure: String) -> [LayoutRow] { rows.filter { $0.name.hasPrefix(structure + ".") } }
    static func row(_ name: String) -> LayoutRow? { rows.first { $0.name == name } }
}

extension ImageBytes {
    /// Writes `value` where the row says, for a structure that starts at `start`.
    mutating func put(_ value: UInt64, in row: LayoutRow, of start: Int = 0) {
        put(Array(big(value).suffix(row.width)), at: start + row.offset)
    }
}
