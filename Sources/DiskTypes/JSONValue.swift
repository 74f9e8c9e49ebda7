// JSON as a value: what the verbs print with --json, and what is said to QEMU and heard from it. Keys keep the order they
// are given in, numbers of 64 bits stay exact, and no name can break out of its string.

/// A JSON value (RFC 8259).
public enum JSONValue: Equatable, Sendable {
    case null
    case bool(Bool)
    case number(Int64)
    case unsigned(UInt64)
    /// A number that is no integer of 64 bits. Read from QEMU; nothing of this program's is printed as one.
    case real(Double)
    case string(String)
    case array([JSONValue])
    case object([Member])

    /// One key of an object, and what it has.
    public struct Member: Equatable, Sendable {
        /// Unique within its object.
        public let key: String
        /// What the key has.
        public let value: JSONValue

        /// A member of an object. The caller sees to it that no key is there twice.
        public init(key: String, value: JSONValue) {
            self.key = key
            self.value = value
        }
    }
}

// MARK: making

extension JSONValue {
    /// An object without the members that have no value.
    public static func members(_ list: KeyValuePairs<String, JSONValue?>) -> JSONValue {
        .object(list.compactMap { key, value in value.map { Member(key: key, value: $0) } })
    }
    /// An object of these members, in the order of their keys.
    public static func object(_ members: [String: JSONValue]) -> JSONValue {
        .object(members.sorted { $0.key < $1.key }.map { Member(key: $0.key, value: $0.value) })
    }
    /// An integer of the machine's size.
    public static func number(_ value: Int) -> JSONValue { .number(Int64(value)) }
    /// A name as qemu-img's JSON has it: what is not UTF-8 in it shows as U+FFFD.
    public static func name(_ name: FileName) -> JSONValue { .string(String(decoding: name.bytes, as: UTF8.self)) }
    /// An array of strings.
    public static func strings(_ list: [String]) -> JSONValue { .array(list.map { .string($0) }) }
}

// MARK: reading

extension JSONValue {
    /// The value of a key; nil where it is missing, or where this is no object.
    public subscript(_ key: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }
    /// The text of a string, else nil.
    public var string: String? { if case .string(let value) = self { value } else { nil } }
    /// An integer that 64 bits with a sign hold, else nil.
    public var integer: Int64? { if case .number(let value) = self { value } else { nil } }
    /// A truth value, else nil.
    public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
    /// The items of an array, else nil.
    public var array: [JSONValue]? { if case .array(let values) = self { values } else { nil } }
}

extension JSONValue: Decodable {
    /// From any decoder of JSON. The members of an object come in the order of their keys: decoders do not keep another.
    public init(from decoder: any Decoder) throws {
        let one = try decoder.singleValueContainer()
        if one.decodeNil() {
            self = .null
        } else if let value = try? one.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? one.decode(Int64.self) {
            self = .number(value)
        } else if let value = try? one.decode(UInt64.self) {
            self = .unsigned(value)
        } else if let value = try? one.decode(Double.self) {
            self = .real(value)
        } else if let value = try? one.decode(String.self) {
            self = .string(value)
        } else if let value = try? one.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try one.decode([String: JSONValue].self))
        }
    }
}
