// The one writer of JSON values. It has the two forms that qemu-img prints, so that scripts which read one read the other:
// `text` over several lines (info, check), `line` for entries of a list (map).

extension JSONValue {
    /// The value over several lines, four blanks a level, without a line's end, as `qemu-img info --output=json` has it.
    public var text: String { text(.lines) }

    /// The value on one line, without its end, as `qemu-img map --output=json` has an entry.
    public var line: String { text(.oneLine) }

    private enum Form { case lines, oneLine }

    private func text(_ form: Form) -> String {
        // Bytes, not a String: a list of extents has a million lines, and a String costs three times as much to append to.
        var out: [UInt8] = []
        out.reserveCapacity(256)
        write(to: &out, form, level: 0)
        return String(decoding: out, as: UTF8.self)
    }

    private func write(to out: inout [UInt8], _ form: Form, level: Int) {
        switch self {
        case .null: out += "null".utf8
        case .bool(let value): out += value ? "true".utf8 : "false".utf8
        case .number(let value): out += String(value).utf8
        case .unsigned(let value): out += String(value).utf8
        // JSON has no infinity and no NaN, which nothing can read out of JSON either.
        case .real(let value): out += value.isFinite ? "\(value)".utf8 : "null".utf8
        case .string(let value): JSONValue.write(quoted: value, to: &out)
        case .array(let items):
            out.append(UInt8(ascii: "["))
            for index in items.indices {
                JSONValue.separate(index == 0, form, first: "", level, &out)
                items[index].write(to: &out, form, level: level + 1)
            }
            JSONValue.end(items.isEmpty, form, level, &out)
            out.append(UInt8(ascii: "]"))
        case .object(let members):
            out.append(UInt8(ascii: "{"))
            for index in members.indices {
                JSONValue.separate(index == 0, form, first: " ", level, &out)
                JSONValue.write(quoted: members[index].key, to: &out)
                out += ": ".utf8
                members[index].value.write(to: &out, form, level: level + 1)
            }
            JSONValue.end(members.isEmpty, form, level, &out)
            out.append(UInt8(ascii: "}"))
        }
    }

    /// What stands before an item: on one line `first` before the first of them.
    private static func separate(_ isFirst: Bool, _ form: Form, first: String, _ level: Int, _ out: inout [UInt8]) {
        switch form {
        case .lines:
            out += isFirst ? "\n".utf8 : ",\n".utf8
            indent(level + 1, &out)
        case .oneLine: out += isFirst ? first.utf8 : ", ".utf8
        }
    }

    private static func end(_ isEmpty: Bool, _ form: Form, _ level: Int, _ out: inout [UInt8]) {
        guard form == .lines, !isEmpty else { return }
        out += "\n".utf8
        indent(level, &out)
    }

    private static func indent(_ level: Int, _ out: inout [UInt8]) { for _ in 0..<level { out += "    ".utf8 } }

    /// `value` in quotes, with everything escaped that JSON wants escaped, and DEL.
    public static func quoted(_ value: String) -> String {
        var out: [UInt8] = []
        write(quoted: value, to: &out)
        return String(decoding: out, as: UTF8.self)
    }

    private static func write(quoted value: String, to out: inout [UInt8]) {
        let quote = UInt8(ascii: "\"")
        out.append(quote)
        // No byte of a character that is not ASCII is one of these.
        for byte in value.utf8 {
            switch byte {
            case quote: out += "\\\"".utf8
            case UInt8(ascii: "\\"): out += "\\\\".utf8
            case UInt8(ascii: "\n"): out += "\\n".utf8
            case UInt8(ascii: "\t"): out += "\\t".utf8
            case UInt8(ascii: "\r"): out += "\\r".utf8
            case 0..<0x20, 0x7f:
                let digits = String(byte, radix: 16)
                out += ("\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits).utf8
            default: out.append(byte)
            }
        }
        out.append(quote)
    }
}
