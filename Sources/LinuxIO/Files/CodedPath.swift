// Paths in records and in messages between our processes: JSON, in the form that `FileName` describes. FilePath's own
// coding shows its storage, and a String would change bytes that are not UTF-8.
public import DiskTypes
public import SystemPackage

/// A path that is coded as `FileName` is.
@propertyWrapper
public struct CodedPath: Codable, Hashable, Sendable {
    /// The path.
    public var wrappedValue: FilePath
    /// Wraps a path.
    public init(wrappedValue: FilePath) { self.wrappedValue = wrappedValue }

    /// From the coding of a `FileName`. A `DecodingError` where the name has a NUL byte.
    public init(from decoder: any Decoder) throws {
        let name = try FileName(from: decoder)
        guard let path = FilePath(name) else {
            throw DecodingError.dataCorrupted(
                .init(codingPath: decoder.codingPath, debugDescription: "a path with a NUL byte"))
        }
        wrappedValue = path
    }
    /// As a `FileName` is coded.
    public func encode(to encoder: any Encoder) throws { try wrappedValue.name.encode(to: encoder) }
}

/// A path that may be missing: without a value there is no key.
@propertyWrapper
public struct CodedPathIfAny: Codable, Hashable, Sendable {
    /// The path, if there is one.
    public var wrappedValue: FilePath?
    /// Wraps a path that may be missing.
    public init(wrappedValue: FilePath?) { self.wrappedValue = wrappedValue }

    /// From the coding of a path that is there; a missing key is dealt with below.
    public init(from decoder: any Decoder) throws { wrappedValue = try CodedPath(from: decoder).wrappedValue }
    /// As a path, or null without one.
    public func encode(to encoder: any Encoder) throws {
        if let wrappedValue { return try CodedPath(wrappedValue: wrappedValue).encode(to: encoder) }
        var one = encoder.singleValueContainer()
        try one.encodeNil()
    }
}

extension JSONValue {
    /// A path that gives back the same file: a string where it is UTF-8, else its bytes, as `FileName` codes them.
    public static func path(_ path: FilePath) -> JSONValue {
        if let text = path.name.text { return .string(text) }
        return .members(["bytes": .string(path.name.hexadecimal)])
    }
}

/// Some paths.
@propertyWrapper
public struct CodedPaths: Codable, Hashable, Sendable {
    /// The paths, in order.
    public var wrappedValue: [FilePath]
    /// Wraps some paths.
    public init(wrappedValue: [FilePath]) { self.wrappedValue = wrappedValue }

    /// From an array of coded paths.
    public init(from decoder: any Decoder) throws {
        wrappedValue = try [CodedPath](from: decoder).map(\.wrappedValue)
    }
    /// As an array of coded paths.
    public func encode(to encoder: any Encoder) throws {
        try wrappedValue.map { CodedPath(wrappedValue: $0) }.encode(to: encoder)
    }
}

extension KeyedDecodingContainer {
    /// What the compiler's own decoding calls for a wrapped path that may be missing.
    public func decode(_: CodedPathIfAny.Type, forKey key: Key) throws -> CodedPathIfAny {
        try decodeIfPresent(CodedPathIfAny.self, forKey: key) ?? CodedPathIfAny(wrappedValue: nil)
    }
}

extension KeyedEncodingContainer {
    /// What the compiler's own encoding calls for a wrapped path that may be missing.
    public mutating func encode(_ path: CodedPathIfAny, forKey key: Key) throws {
        if path.wrappedValue != nil { try encodeIfPresent(path, forKey: key) }
    }
}
