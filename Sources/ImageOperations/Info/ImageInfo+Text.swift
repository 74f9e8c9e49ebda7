// `info` for people, line by line as qemu-img prints it. Names come from strangers and end on a terminal: control
// characters are shown as `?`.

import DiskTypes
import Glibc
public import QCOW2
import LinuxIO

extension ImageInfo {
    /// The lines of `qemu-img info`, each ended.
    public var text: String {
        var lines = [
            "image: \(printable(filename))",
            "file format: \(format)",
            "virtual size: \(ByteSize.text(virtualSize)) (\(virtualSize) bytes)",
            "disk size: \(ByteSize.text(actualSize))",
        ]
        if isEncrypted { lines.append("encrypted: yes") }
        if let clusterSize { lines.append("cluster_size: \(clusterSize)") }
        if isDirty { lines.append("cleanly shut down: no") }
        lines += backingLines
        if !snapshots.isEmpty { lines += ["Snapshot list:", Snapshot.heading] + snapshots.map(\.line) }
        if let formatSpecific {
            lines.append("Format specific information:")
            lines += formatSpecific.lines(indent: 1)
        }
        lines += file.lines
        return lines.map { $0 + "\n" }.joined()
    }

    private var backingLines: [String] {
        guard let backingFilename else { return [] }
        var line = "backing file: \(backingFilename)"
        if let full = fullBackingFilename, full != backingFilename { line += " (actual path: \(full))" }
        return [line] + (backingFormat.map { ["backing file format: \(printable($0))"] } ?? [])
    }
}

extension FileInfo {
    var lines: [String] {
        var lines = [
            "Child node '/file':",
            "    filename: \(printable(filename))",
            "    protocol type: \(driver)",
            "    file length: \(ByteSize.text(length)) (\(length) bytes)",
            "    disk size: \(ByteSize.text(actualSize))",
        ]
        if extentSizeHint != nil {
            lines.append("    Format specific information:")
            lines += specific.lines(indent: 2)
        }
        return lines
    }
}

extension Snapshot {
    /// The heading of the list of snapshots.
    public static let heading = columns("ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT")

    /// One snapshot in the list.
    public var line: String {
        let seconds = vmClock / 1_000_000_000
        let clock = [seconds / 60 % 60, seconds % 60].map { Self.padded($0, 2) }.joined(separator: ":")
        return Self.columns(
            printable(id), printable(name), ByteSize.text(vmStateSize), Self.localTime(dateSeconds),
            "\(Self.padded(seconds / 3600, 4)):\(clock).\(Self.padded(vmClock / 1_000_000 % 1000, 3))",
            icount.map { String($0) } ?? "--")
    }

    private static func columns(
        _ id: String, _ tag: String, _ size: String, _ date: String, _ clock: String, _ icount: String
    ) -> String {
        [left(id, 7), left(tag, 16), right(size, 8), right(date, 19), right(clock, 15), right(icount, 10)]
            .joined(separator: " ")
    }
    private static func left(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.utf8.count))
    }
    private static func right(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.utf8.count)) + text
    }
    private static func padded(_ value: UInt64, _ width: Int) -> String {
        let digits = String(value)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }

    private static func localTime(_ seconds: UInt32) -> String {
        var time = time_t(seconds)
        var parts = unsafe tm()
        unsafe localtime_r(&time, &parts)
        let date = unsafe [parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday].map { padded(UInt64(max(0, $0)), 2) }
        let clock = unsafe [parts.tm_hour, parts.tm_min, parts.tm_sec].map { padded(UInt64(max(0, $0)), 2) }
        return date.joined(separator: "-") + " " + clock.joined(separator: ":")
    }
}

extension JSONValue {
    /// The tree as qemu-img prints it for people: blanks for dashes in keys, list items numbered.
    func lines(indent level: Int) -> [String] {
        switch self {
        case .object(let members):
            members.flatMap { $0.value.lines(named: $0.key.map { $0 == "-" ? " " : String($0) }.joined(), level) }
        case .array(let items):
            items.enumerated().flatMap { $0.element.lines(named: "[\($0.offset)]", level) }
        default: []
        }
    }

    private func lines(named name: String, _ level: Int) -> [String] {
        let head = String(repeating: "    ", count: level) + name + ":"
        switch self {
        case .object, .array: return [head] + lines(indent: level + 1)
        case .string(let text): return ["\(head) \(printable(text))"]
        case .null: return [head]
        default: return ["\(head) \(text)"]
        }
    }
}
