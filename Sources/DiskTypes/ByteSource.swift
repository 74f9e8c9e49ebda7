// The formats parse headers and tables without knowing files. What they need from one is this much; tests and fuzzers
// hand them memory instead.

/// Bytes that can be read at any position.
public protocol ByteSource {
    /// Length in bytes now.
    var length: UInt64 { get }
    /// Reads up to `count` bytes at `offset`; fewer only where the source ends.
    func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8]
}

extension ByteSource {
    /// Exactly `count` bytes, or an error that says `what` is cut off.
    public func readAll(at offset: HostOffset, count: Int, what: String) throws(ImageError) -> [UInt8] {
        let (end, overflow) = offset.bytes.addingReportingOverflow(UInt64(count))
        guard !overflow, end <= length else {
            throw .malformed(
                "\(what) lies past the end of the file", at: offset, advice: "the image is truncated or damaged")
        }
        let bytes = try read(at: offset, count: count)
        guard bytes.count == count else {
            throw .malformed("\(what) is cut off", at: offset, advice: "the image is truncated or damaged")
        }
        return bytes
    }

    /// Up to `count` bytes; an error where fewer come than a source of `known` bytes has there: it was cut meanwhile.
    public func read(at offset: HostOffset, count: Int, ofLength known: UInt64) throws(ImageError) -> [UInt8] {
        let bytes = try read(at: offset, count: count)
        let there = offset.bytes < known ? Int(clamping: min(UInt64(clamping: count), known - offset.bytes)) : 0
        guard bytes.count >= there else {
            throw .malformed("the file was cut while it was read", at: offset, advice: "its end is lost")
        }
        return bytes
    }
}

/// A source in memory.
public struct MemorySource: ByteSource, Sendable {
    /// What the source holds.
    public var bytes: [UInt8]
    /// A source of these bytes.
    public init(_ bytes: [UInt8]) { self.bytes = bytes }
    /// The number of bytes.
    public var length: UInt64 { UInt64(bytes.count) }

    /// Up to `count` bytes at `offset`; none past the end. Never throws.
    public func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        guard count > 0, offset.bytes < UInt64(bytes.count) else { return [] }
        let start = Int(offset.bytes)
        return Array(bytes[start..<min(bytes.count, start + min(count, bytes.count - start))])
    }
}
