// The name of a file as bytes: as it stands in an image's header, and as a message names it. A String would change
// bytes that are not UTF-8, and would take two names for one that only Unicode takes for equal.

/// Bytes that name a file. Equal only to the same bytes.
public struct FileName: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
    /// The name's bytes, without a terminator.
    public let bytes: [UInt8]

    /// The name of these bytes.
    public init(_ bytes: some Sequence<UInt8>) { self.bytes = Array(bytes) }
    /// The name of this text in UTF-8.
    public init(_ text: String) { bytes = Array(text.utf8) }
    /// The name that a literal spells, in UTF-8.
    public init(stringLiteral text: String) { self.init(text) }

    /// True for a name of no bytes.
    public var isEmpty: Bool { bytes.isEmpty }
    /// The name as text, where it is UTF-8.
    public var text: String? { String(validating: bytes, as: UTF8.self) }
    /// Whether the last bytes are those of `suffix` in UTF-8.
    public func hasSuffix(_ suffix: String) -> Bool { bytes.suffix(suffix.utf8.count).elementsEqual(suffix.utf8) }
    /// Whether the first bytes are those of `prefix` in UTF-8.
    public func hasPrefix(_ prefix: String) -> Bool { bytes.starts(with: prefix.utf8) }

    /// For people: see `printable`.
    public var description: String { printable(bytes) }
}

/// In JSON a name is a string where it is UTF-8; else an object with its bytes in hexadecimal, `{"bytes": "62ff"}`. A
/// string is thus never a repaired name.
extension FileName: Codable {
    private enum Key: CodingKey { case bytes }

    /// Two digits a byte.
    public var hexadecimal: String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    /// A string, or an object with `bytes`.
    public func encode(to encoder: any Encoder) throws {
        if let text {
            var one = encoder.singleValueContainer()
            return try one.encode(text)
        }
        var object = encoder.container(keyedBy: Key.self)
        try object.encode(hexadecimal, forKey: .bytes)
    }

    /// Either form. A `DecodingError` for anything else, and for `bytes` that are not pairs of hexadecimal digits.
    public init(from decoder: any Decoder) throws {
        if let object = try? decoder.container(keyedBy: Key.self) {
            let hex = Array(try object.decode(String.self, forKey: .bytes).utf8)
            let digits = hex.compactMap { UInt8(String(Unicode.Scalar($0)), radix: 16) }
            guard digits.count == hex.count, hex.count % 2 == 0 else {
                throw DecodingError.dataCorruptedError(
                    forKey: .bytes, in: object, debugDescription: "not pairs of hexadecimal digits")
            }
            self.init(stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] })
        } else {
            self.init(try decoder.singleValueContainer().decode(String.self))
        }
    }
}
