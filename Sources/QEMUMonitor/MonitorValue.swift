// QMP speaks JSON whose shape depends on QEMU's version and on the machine. It is read as it comes and asked for the
// few things that matter; what is not there is nil, never a failure to parse.
import FoundationEssentials

/// A JSON value of QEMU's.
public enum MonitorValue: Equatable, Sendable, Codable {
    case null
    case bool(Bool)
    case integer(Int64)
    case number(Double)
    case string(String)
    case array([MonitorValue])
    case object([String: MonitorValue])

    public init(from decoder: any Decoder) throws {
        let one = try decoder.singleValueContainer()
        if one.decodeNil() {
            self = .null
        } else if let value = try? one.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? one.decode(Int64.self) {
            self = .integer(value)
        } else if let value = try? one.decode(Double.self) {
            self = .number(value)
        } else if let value = try? one.decode(String.self) {
            self = .string(value)
        } else if let value = try? one.decode([MonitorValue].self) {
            self = .array(value)
        } else {
            self = .object(try one.decode([String: MonitorValue].self))
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var one = encoder.singleValueContainer()
        switch self {
        case .null: try one.encodeNil()
        case .bool(let value): try one.encode(value)
        case .integer(let value): try one.encode(value)
        case .number(let value): try one.encode(value)
        case .string(let value): try one.encode(value)
        case .array(let values): try one.encode(values)
        case .object(let members): try one.encode(members)
        }
    }

    /// nil when the bytes are no JSON.
    init?(parsing bytes: some Sequence<UInt8>) {
        do { self = try JSONDecoder().decode(MonitorValue.self, from: Data(bytes)) } catch { return nil }
    }

    /// One line of JSON; nil for what JSON cannot say (a number that is none).
    var line: [UInt8]? {
        do { return Array(try JSONEncoder().encode(self)) } catch { return nil }
    }

    public subscript(key: String) -> MonitorValue? {
        if case .object(let members) = self { members[key] } else { nil }
    }
    public var string: String? { if case .string(let value) = self { value } else { nil } }
    public var integer: Int64? { if case .integer(let value) = self { value } else { nil } }
    public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
    public var array: [MonitorValue]? { if case .array(let values) = self { values } else { nil } }
}
