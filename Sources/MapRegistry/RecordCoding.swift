// Records in the registry, and messages between the processes of one map or disk, are JSON that the compiler's coding
// makes and reads. Foundation's coder is called here and nowhere else; values without a type go through `JSONValue`.
package import DiskTypes
import FoundationEssentials

/// Coding of records and messages.
package enum RecordCoding {
    /// A message on one line, without its end. For descriptions of a process's work, which are never too large for an
    /// argument.
    package static func message(_ value: some Encodable) throws(ImageError) -> String {
        do { return String(decoding: try JSONEncoder().encode(value), as: UTF8.self) } catch {
            throw ImageError(.system, "cannot write a message to another qblk process")
        }
    }

    /// A record over several lines, keys in order, with a line's end: administrators read it. Nil for a value that JSON
    /// cannot hold.
    static func record(_ value: some Encodable) -> [UInt8]? {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        do { return Array(try encoder.encode(value)) + [UInt8(ascii: "\n")] } catch { return nil }
    }

    /// What a message or a record says; nil where the bytes are no JSON of such a value.
    package static func decode<Value: Decodable>(_ type: Value.Type, _ bytes: some Sequence<UInt8>) -> Value? {
        do { return try JSONDecoder().decode(type, from: Data(bytes)) } catch { return nil }
    }
}
