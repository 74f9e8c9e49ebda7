// Why this file exists: `qblk list`.

import ArgumentParser
import ImageOperations
import MapRegistry

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Lists mapped images.",
        discussion: """
            One line a map: name, device, image, size, how, read-only or not, the server's pid. A map whose device or
            server has died says so; `qblk unmap` cleans up after it.

            Example:
              qblk list --json
            """)

    @OptionGroup var output: OutputOptions

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    func run() throws {
        let records = try MapRegistry().all()
        if output.isJSON { return try Output.write(JSONValue.array(records.map(\.json)).text + "\n") }
        guard !records.isEmpty else { return }
        let header = ["NAME", "DEVICE", "IMAGE", "SIZE", "HOW", "MODE", "PID", "STATE"]
        try Output.write(Columns.text([header] + records.map(\.row)))
    }
}

extension MapRecord {
    fileprivate var state: String {
        switch health {
        case .alive: deferred ? "leaving" : "ready"
        case .crippled: "crippled"
        case .dead: "dead"
        }
    }

    fileprivate var row: [String] {
        [
            name, device, image, ByteSize.text(size), how.rawValue, readOnly ? "ro" : "rw",
            server.map { "\($0.pid)" } ?? "-", state,
        ]
    }

    fileprivate var json: JSONValue {
        .members([
            "name": .string(name), "device": .string(device), "image": .string(image), "format": .string(format),
            "snapshot": snapshot.map { .string($0) }, "size": .unsigned(size), "how": .string(how.rawValue),
            "read-only": .bool(readOnly), "pid": server.map { .number(Int64($0.pid)) },
            "supervisor-pid": supervisor.map { .number(Int64($0.pid)) }, "state": .string(state),
        ])
    }
}

/// Text in columns as wide as they must be.
enum Columns {
    static func text(_ rows: [[String]]) -> String {
        let count = rows.map(\.count).max() ?? 0
        let widths = (0..<count).map { i in rows.map { i < $0.count ? $0[i].count : 0 }.max() ?? 0 }
        return rows.map { row in
            row.enumerated().map { i, cell in
                i == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[i] - cell.count)
            }.joined(separator: "  ") + "\n"
        }.joined()
    }
}
