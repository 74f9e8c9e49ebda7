// Formats/vhost-user is the truth about the bytes; this reads its tables for the tests.
import Glibc

enum FormatTable {
    /// The rows of a table without its head line, split into fields.
    static func rows(_ name: String) -> [[String]] {
        let path = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        guard let file = fopen("/\(path)/formats/vhost-user/\(name)", "r") else { return [] }
        defer { fclose(file) }
        var rows: [[String]] = []
        var line = [CChar](repeating: 0, count: 4096)
        while fgets(&line, 4096, file) != nil {
            let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            rows.append(
                text.dropLast().split(separator: "\t", omittingEmptySubsequences: false).map { String($0) })
        }
        return Array(rows.dropFirst())
    }

    /// Name to offset (or value, or bit) and width.
    static let layout: [String: (offset: UInt64, width: Int)] = rows("layout.tsv").reduce(into: [:]) { table, row in
        if row.count > 2, let offset = UInt64(row[1]), let width = Int(row[2]) { table[row[0]] = (offset, width) }
    }
}
