// Scripts read what the verbs say with --json. Keys keep the order they are given in, numbers of 64 bits stay exact,
// and what a stranger put into a name cannot break out of its string.

public import DiskTypes
import LinuxIO
public import SystemPackage

/// A JSON text in the making.
public enum JSONValue: Equatable, Sendable {
    case null
    case bool(Bool)
    case number(Int64)
    case unsigned(UInt64)
    case string(String)
    case array([JSONValue])
    case object([Member])

    public struct Member: Equatable, Sendable {
        public let key: String
        public let value: JSONValue

        public init(key: String, value: JSONValue) {
            self.key = key
            self.value = value
        }
    }

    /// An object without the members that have no value.
    public static func members(_ list: KeyValuePairs<String, JSONValue?>) -> JSONValue {
        .object(list.compactMap { key, value in value.map { Member(key: key, value: $0) } })
    }
    public static func number(_ value: Int) -> JSONValue { .number(Int64(value)) }
    /// A name as qemu-img's JSON has it: what is not UTF-8 in it shows as U+FFFD.
    public static func name(_ name: FileName) -> JSONValue { .string(String(decoding: name.bytes, as: UTF8.self)) }
    /// A path that gives back the same file: a string where it is UTF-8, else its bytes, as `FileName` codes them.
    public static func path(_ path: FilePath) -> JSONValue {
        if let text = path.name.text { return .string(text) }
        return .members(["bytes": .string(path.name.hexadecimal)])
    }
    public static func strings(_ list: [String]) -> JSONValue { .array(list.map { .string($0) }) }

    /// The value of a key, for objects.
    public subscript(_ key: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }

    /// The text over several lines, four blanks a level, as qemu-img indents.
    public var text: String {
        var out = ""
        write(to: &out, level: 0)
        return out
    }

    private func write(to out: inout String, level: Int) {
        switch self {
        case .null: out += "null"
        case .bool(let value): out += value ? "true" : "false"
        case .number(let value): out += String(value)
        case .unsigned(let value): out += String(value)
        case .string(let value): out += JSONValue.quoted(value)
        case .array(let items):
            JSONValue.block("[", items, "]", &out, level) { item, out in item.write(to: &out, level: level + 1) }
        case .object(let members):
            JSONValue.block("{", members, "}", &out, level) { member, out in
                out += JSONValue.quoted(member.key) + ": "
                member.value.write(to: &out, level: level + 1)
            }
        }
    }

    private static func block<Item>(
        _ open: String, _ items: [Item], _ close: String, _ out: inout String, _ level: Int,
        _ write: (Item, inout String) -> Void
    ) {
        out += open
        for (index, item) in items.enumerated() {
            out += (index == 0 ? "\n" : ",\n") + String(repeating: "    ", count: level + 1)
            write(item, &out)
        }
        if !items.isEmpty { out += "\n" + String(repeating: "    ", count: level) }
        out += close
    }

    /// `value` in quotes, with everything escaped that JSON wants escaped.
    public static func quoted(_ value: String) -> String {
        var out = "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\t": out += "\\t"
            case "\r": out += "\\r"
            case _ where scalar.value < 0x20 || scalar.value == 0x7f:
                let digits = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }
}
