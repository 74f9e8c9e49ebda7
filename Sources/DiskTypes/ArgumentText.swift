// The words of a command line are bytes, and the parser of options takes text. This is the one door between: text that
// stands for any bytes, and gives back exactly these.

/// Words of the command line as text. What is UTF-8 is itself; every other byte is one character of a range for private
/// use, U+10FE00 to U+10FEFF. Characters of that range, should a word have any, are coded byte by byte, too: so no two
/// words have the same text.
public enum ArgumentText {
    private static let first: UInt32 = 0x10_fe00

    /// The text that stands for `bytes`.
    public static func encode(_ bytes: [UInt8]) -> String {
        var text = ""
        var parser = UTF8.ForwardParser()
        var at = 0
        var rest = bytes.makeIterator()
        while true {
            let length: Int
            switch parser.parseScalar(from: &rest) {
            case .emptyInput: return text
            case .valid(let encoded):
                let scalar = UTF8.decode(encoded)
                length = encoded.count
                if byte(of: scalar) == nil {
                    text.unicodeScalars.append(scalar)
                } else {
                    escape(bytes[at..<(at + length)], into: &text)
                }
            case .error(let count):
                length = count
                escape(bytes[at..<(at + length)], into: &text)
            }
            at += length
        }
    }

    /// The bytes that `text` stands for.
    public static func decode(_ text: some StringProtocol) -> [UInt8] {
        var bytes: [UInt8] = []
        for scalar in text.unicodeScalars {
            if let byte = byte(of: scalar) {
                bytes.append(byte)
            } else {
                bytes += UTF8.encode(scalar).map(Array.init) ?? []
            }
        }
        return bytes
    }

    /// Text with words of the command line in it, for people: see `printable`.
    public static func shown(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { byte(of: $0) != nil }) else { return text }
        return text.unicodeScalars.map { scalar in
            byte(of: scalar).map { printable([$0]) } ?? String(scalar)
        }.joined()
    }

    private static func byte(of scalar: Unicode.Scalar) -> UInt8? {
        scalar.value >= first && scalar.value <= first + 0xff ? UInt8(scalar.value - first) : nil
    }

    private static func escape(_ bytes: ArraySlice<UInt8>, into text: inout String) {
        for byte in bytes {
            if let scalar = Unicode.Scalar(first + UInt32(byte)) { text.unicodeScalars.append(scalar) }
        }
    }
}

extension FileName {
    /// The name that a word of the command line, or a part of one, stands for.
    public init(argument text: some StringProtocol) { self.init(ArgumentText.decode(text)) }
}
