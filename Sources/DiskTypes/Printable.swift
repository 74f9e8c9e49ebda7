// Names out of an image or of the file system end on terminals and in logs, and a stranger may have chosen them.

/// `name` with what cannot be shown as `\xHH`, a byte each: see `printable(_:)` of bytes.
public func printable(_ name: String) -> String { printable(Array(name.utf8)) }

/// A name for a terminal or a log, at most 1024 characters of it. Control characters, line breaks, invisible format
/// characters (which turn text around) and what is not UTF-8 become `\xHH`, a byte each; so does a backslash that
/// would read as one of these. Different names look different.
public func printable(_ name: [UInt8]) -> String {
    var shown = ""
    var decoder = UTF8.ForwardParser()
    var at = 0
    var bytes = name.makeIterator()
    for _ in 0..<1024 {
        switch decoder.parseScalar(from: &bytes) {
        case .emptyInput: return shown
        case .error(let length):
            for byte in name[at..<(at + length)] { shown += escaped(byte) }
            at += length
        case .valid(let encoded):
            let scalar = UTF8.decode(encoded)
            if isShown(scalar), !readsAsEscape(name[at...]) {
                shown.unicodeScalars.append(scalar)
            } else {
                for byte in encoded { shown += escaped(byte) }
            }
            at += encoded.count
        }
    }
    return shown
}

private func escaped(_ byte: UInt8) -> String {
    let digits = String(byte, radix: 16)
    return digits.utf8.count < 2 ? "\\x0" + digits : "\\x" + digits
}

/// Whether text starts with a backslash, an x and two hexadecimal digits.
private func readsAsEscape(_ rest: ArraySlice<UInt8>) -> Bool {
    let start = Array(rest.prefix(4))
    return start.count == 4 && start[0] == UInt8(ascii: "\\") && start[1] == UInt8(ascii: "x")
        && start[2...].allSatisfy { Unicode.Scalar($0).properties.isASCIIHexDigit }
}

private func isShown(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator: false
    default: true
    }
}
