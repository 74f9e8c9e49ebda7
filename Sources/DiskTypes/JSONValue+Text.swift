// The one writer of JSON values. It has the two forms that qemu-img prints, so that scripts which read one read the other:
// `text` over several lines (info, check), `line` for entries of a list (map).

extension JSONValue {
    /// The value over several lines, four blanks a level, without a line's end, as `qemu-img info --output=json` has it.
    public var text: String {
        var out = ""
        write(to: &out, .lines, level: 0)
        return out
    }

    /// The value on one line, without its end, as `qemu-img map --output=json` has an entry.
    public var line: String {
        var out = ""
        write(to: &out, .oneLine, level: 0)
        return out
    }

    private enum Form { case lines, oneLine }

    private func write(to out: inout String, _ form: Form, level: Int) {
        switch self {
        case .null: out += "null"
        case .bool(let value): out += value ? "true" : "false"
        case .number(let value): out += String(value)
        case .unsigned(let value): out += String(value)
        // JSON has no infinity and no NaN, which nothing can read out of JSON either.
        case .real(let value): out += value.isFinite ? "\(value)" : "null"
        case .string(let value): out += JSONValue.quoted(value)
        case .array(let items):
            JSONValue.block("[", items, "]", &out, form, level) { item, out in
                item.write(to: &out, form, level: level + 1)
            }
        case .object(let members):
            JSONValue.block("{", members, "}", &out, form, level) { member, out in
                out += JSONValue.quoted(member.key) + ": "
                member.value.write(to: &out, form, level: level + 1)
            }
        }
    }

    private static func block<Item>(
        _ open: String, _ items: [Item], _ close: String, _ out: inout String, _ form: Form, _ level: Int,
        _ write: (Item, inout String) -> Void
    ) {
        out += open
        for (index, item) in items.enumerated() {
            switch form {
            case .lines: out += (index == 0 ? "\n" : ",\n") + String(repeating: "    ", count: level + 1)
            case .oneLine: out += index > 0 ? ", " : open == "{" ? " " : ""
            }
            write(item, &out)
        }
        if form == .lines, !items.isEmpty { out += "\n" + String(repeating: "    ", count: level) }
        out += close
    }

    /// `value` in quotes, with everything escaped that JSON wants escaped, and DEL.
    public static func quoted(_ value: String) -> String {
        // Keys, and nearly every string: a list of extents has a million of them.
        if value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x22 && $0 != 0x5c && $0 != 0x7f }) { return "\"\(value)\"" }
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
