// A line of `list`, `map --json` and `attach --json`: a map or a disk in a VM.

import DiskTypes
import ImageOperations
import MapRegistry
import LinuxIO

struct MapEntry {
    let json: JSONValue
    let columns: [String]

    init(_ record: MapRecord) {
        let state = record.deferred ? "going" : Self.state(record.health)
        let (isRenamed, isDeleted) = (record.isImageRenamed, record.isImageDeleted)
        json = .members([
            "name": .string(record.name),
            "device": .string(record.device),
            "image": .path(record.image),
            "image-renamed": isRenamed && !isDeleted ? .bool(true) : nil,
            "image-deleted": isDeleted ? .bool(true) : nil,
            "format": .string(record.format),
            "snapshot": record.snapshot.map { .string($0) },
            "size": .unsigned(record.size),
            "how": .string(record.how.rawValue),
            "read-only": .bool(record.readOnly),
            "server-pid": record.server.map { .number(Int64($0.pid)) },
            "supervisor-pid": record.supervisor.map { .number(Int64($0.pid)) },
            "state": .string(state),
            "created": .number(record.created),
        ])
        columns = [
            record.name, record.device, ByteSize.text(record.size), record.how.rawValue, record.readOnly ? "yes" : "no",
            record.server.map { String($0.pid) } ?? "-", state,
            printable(record.image) + (isDeleted ? " (deleted)" : isRenamed ? " (renamed)" : ""),
        ]
    }

    /// A disk in a VM has no device on the host; the VM's QMP socket is shown instead.
    init(_ record: AttachmentRecord) {
        let state = Self.state(record.health)
        json = .members([
            "name": .string(record.id),
            "qmp": .path(record.qmp),
            "image": .path(record.image),
            "format": .string(record.format),
            "snapshot": record.snapshot.map { .string($0) },
            "size": .unsigned(record.size),
            "how": .string(record.how.rawValue),
            "read-only": .bool(record.readOnly),
            "server-pid": record.server.map { .number(Int64($0.pid)) },
            "supervisor-pid": record.supervisor.map { .number(Int64($0.pid)) },
            "vm-pid": record.machine.map { .number(Int64($0.pid)) },
            "state": .string(state),
            "created": .number(record.created),
        ])
        columns = [
            record.id, printable(record.qmp), ByteSize.text(record.size), record.how.rawValue,
            record.readOnly ? "yes" : "no",
            record.server.map { String($0.pid) } ?? "-", state, printable(record.image),
        ]
    }

    private static func state(_ health: MapHealth) -> String {
        switch health {
        case .alive: "alive"
        case .degraded: "degraded"
        case .failed: "failed"
        case .dead: "dead"
        }
    }

    static let heading = ["NAME", "DEVICE", "SIZE", "HOW", "RO", "PID", "STATE", "IMAGE"]
}

/// Rows of text in columns, each as wide as its widest text.
enum TextTable {
    static func text(_ rows: [[String]]) -> String {
        let count = rows.map(\.count).max() ?? 0
        let widths = (0..<count).map { column in rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0 }
        return rows.map { row in
            let padded = row.enumerated().map { column, text in
                column + 1 == row.count ? text : text + String(repeating: " ", count: widths[column] - text.count)
            }
            return padded.joined(separator: "  ") + "\n"
        }.joined()
    }
}
