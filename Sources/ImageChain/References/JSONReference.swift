// A backing file's name that is options in JSON, as libvirt and QEMU's own snapshots write them. Of all that QEMU's
// block layer can be told, only what means a plain file of this host is understood; the rest is refused by its name.

import DiskTypes

/// `{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}`, also with dotted keys (`"file.filename"`), and
/// what QEMU lets be left out. Keys are flattened as QEMU does; one that is given twice is an error.
struct JSONReference {
    private(set) var format: ImageFormat?
    private(set) var filename = FileName("")

    /// `header`: the format that stands beside the name. QEMU has it replace the driver, and reads the options as that one's.
    init(_ text: some Sequence<UInt8>, header: String?, role: String) throws(ImageError) {
        var reader = JSONOptionReader(Array(text))
        do throws(JSONOptionReader.Refusal) { try reader.read() } catch {
            throw ImageError(
                .reference, "the \(role) is named by JSON that \(error.what)", advice: "rebase the image onto a file")
        }
        var options = reader.options
        let driver = options.removeValue(forKey: FileName("driver"))
        if let driver {
            guard let known = try? ImageFormat.named(driver.text ?? "") else {
                throw Self.unknown("driver \"\(driver)\"", role)
            }
            format = known
        }
        // These are options of a file, or those of an image in one.
        let isBare = (header.map { FileName($0) } ?? driver) == FileName("file")
        let prefix = isBare ? "" : "file."
        if !isBare, let inner = options.removeValue(forKey: FileName("file.driver")), inner != FileName("file") {
            throw Self.unknown("driver \"\(inner)\"", role)
        }
        guard let name = options.removeValue(forKey: FileName(prefix + "filename")) else {
            throw Self.unknown("no \"\(prefix)filename\"", role)
        }
        // Any order of a dictionary would do; the first in the alphabet is the same each time.
        if let other = options.keys.min(by: { $0.bytes.lexicographicallyPrecedes($1.bytes) }) {
            throw Self.unknown("option \"\(other)\"", role)
        }
        filename = name
    }

    private static func unknown(_ what: String, _ role: String) -> ImageError {
        ImageError(
            .reference, "the \(role) is named by JSON with \(what)",
            advice: "only plain files are opened; rebase the image onto one")
    }
}

/// Reads objects and strings, which is all that plain files need, in QEMU's JSON: strings may have single quotes.
private struct JSONOptionReader {
    struct Refusal: Error { let what: String }

    /// Values by their dotted keys.
    private(set) var options: [FileName: FileName] = [:]
    private let bytes: [UInt8]
    private var at = 0
    /// Objects in objects; QEMU takes 1024, plain files need 2.
    private static let deepest = 8

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func read() throws(Refusal) {
        try object([], 0)
        skipBlanks()
        guard at == bytes.count else { throw broken }
    }

    private var broken: Refusal { Refusal(what: "cannot be read") }

    private mutating func skipBlanks() {
        while at < bytes.count, [0x20, 0x09, 0x0a, 0x0d].contains(bytes[at]) { at += 1 }
    }

    /// The next byte that is no blank.
    private mutating func next() throws(Refusal) -> UInt8 {
        skipBlanks()
        guard at < bytes.count else { throw broken }
        defer { at += 1 }
        return bytes[at]
    }

    private mutating func object(_ prefix: [UInt8], _ depth: Int) throws(Refusal) {
        guard depth < Self.deepest, try next() == UInt8(ascii: "{") else { throw broken }
        var separator = try next()
        if separator == UInt8(ascii: "}") { return }
        at -= 1
        repeat {
            let key = prefix + (try string())
            guard try next() == UInt8(ascii: ":") else { throw broken }
            skipBlanks()
            guard at < bytes.count else { throw broken }
            switch bytes[at] {
            case UInt8(ascii: "{"): try object(key + [UInt8(ascii: ".")], depth + 1)
            case UInt8(ascii: "\""), UInt8(ascii: "'"):
                guard options.updateValue(FileName(try string()), forKey: FileName(key)) == nil else {
                    throw Refusal(what: "has \"\(FileName(key))\" twice")
                }
            default: throw Refusal(what: "has a value for \"\(FileName(key))\" that is no text")
            }
            separator = try next()
        } while separator == UInt8(ascii: ",")
        guard separator == UInt8(ascii: "}") else { throw broken }
    }

    private mutating func string() throws(Refusal) -> [UInt8] {
        let quote = try next()
        guard quote == UInt8(ascii: "\"") || quote == UInt8(ascii: "'") else { throw broken }
        var text: [UInt8] = []
        while at < bytes.count {
            let byte = bytes[at]
            at += 1
            if byte == quote {
                // QEMU refuses what is not UTF-8 here.
                guard String(validating: text, as: UTF8.self) != nil, !text.contains(0) else {
                    throw Refusal(what: "has a text that is not UTF-8 or contains a NUL byte")
                }
                return text
            }
            guard byte >= 0x20 else { throw broken }
            if byte == UInt8(ascii: "\\") { text += try escape() } else { text.append(byte) }
        }
        throw broken
    }

    /// What stands behind a backslash.
    private mutating func escape() throws(Refusal) -> [UInt8] {
        guard at < bytes.count else { throw broken }
        let byte = bytes[at]
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "'"), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "b"): return [8]
        case UInt8(ascii: "f"): return [12]
        case UInt8(ascii: "n"): return [10]
        case UInt8(ascii: "r"): return [13]
        case UInt8(ascii: "t"): return [9]
        case UInt8(ascii: "u"): break
        default: throw broken
        }
        var units = [try codeUnit()]
        if UTF16.isLeadSurrogate(units[0]), at + 1 < bytes.count, bytes[at] == UInt8(ascii: "\\"),
            bytes[at + 1] == UInt8(ascii: "u")
        {
            at += 2
            units.append(try codeUnit())
        }
        guard let text = String(validating: units, as: UTF16.self) else { throw broken }
        return Array(text.utf8)
    }

    private mutating func codeUnit() throws(Refusal) -> UInt16 {
        guard at + 4 <= bytes.count else { throw broken }
        let digits = bytes[at..<(at + 4)]
        at += 4
        guard digits.allSatisfy({ Unicode.Scalar($0).properties.isASCIIHexDigit }),
            let unit = UInt16(String(decoding: digits, as: UTF8.self), radix: 16)
        else { throw broken }
        return unit
    }
}
