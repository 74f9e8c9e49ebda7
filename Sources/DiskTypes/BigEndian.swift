// The one place that takes integers out of image bytes. Every load is bounds checked and an error names the place;
// nothing here can trap on what a stranger wrote.

/// Reads big-endian integers out of bytes at fixed offsets, as the QCOW2 specification gives them.
public struct BigEndianBytes: Sendable {
    /// The bytes that are read from; offsets count from the first.
    public let bytes: [UInt8]
    /// Where `bytes` begins in the file, for error messages.
    public let base: HostOffset

    /// Bytes that begin at `base` of the file they were read from.
    public init(_ bytes: [UInt8], base: HostOffset = HostOffset(0)) {
        self.bytes = bytes
        self.base = base
    }

    /// How many bytes there are.
    public var count: Int { bytes.count }

    /// The unsigned integer of type T whose first byte is at `offset`. `.malformed` where the bytes end before it does.
    public func load<T: FixedWidthInteger & UnsignedInteger>(_: T.Type, at offset: Int) throws(ImageError) -> T {
        let width = T.bitWidth / 8
        guard offset >= 0, offset <= bytes.count, bytes.count - offset >= width else { throw cutOff(at: offset) }
        var value: T = 0
        for i in 0..<width { value = (value << 8) | T(truncatingIfNeeded: bytes[offset + i]) }
        return value
    }
    /// One byte; throws as `load`.
    public func u8(at offset: Int) throws(ImageError) -> UInt8 { try load(UInt8.self, at: offset) }
    /// Two bytes; throws as `load`.
    public func u16(at offset: Int) throws(ImageError) -> UInt16 { try load(UInt16.self, at: offset) }
    /// Four bytes; throws as `load`.
    public func u32(at offset: Int) throws(ImageError) -> UInt32 { try load(UInt32.self, at: offset) }
    /// Eight bytes; throws as `load`.
    public func u64(at offset: Int) throws(ImageError) -> UInt64 { try load(UInt64.self, at: offset) }

    /// `n` bytes from `offset` on, with the indices of `bytes`. `.malformed` where there are fewer.
    public func slice(at offset: Int, count n: Int) throws(ImageError) -> ArraySlice<UInt8> {
        guard offset >= 0, n >= 0, offset <= bytes.count, bytes.count - offset >= n else { throw cutOff(at: offset) }
        return bytes[offset..<(offset + n)]
    }
    /// A name stored without terminator. A name that is not UTF-8 keeps its ASCII only, never is refused: names are for
    /// people. Its bytes do not grow by that (U+FFFD has three), so that limits on tables are limits on memory.
    public func text(at offset: Int, count n: Int) throws(ImageError) -> String {
        let name = try slice(at: offset, count: n)
        return String(validating: name, as: UTF8.self)
            ?? String(decoding: name.map { $0 < 0x80 ? $0 : UInt8(ascii: "?") }, as: UTF8.self)
    }

    private func cutOff(at offset: Int) -> ImageError {
        let (place, overflow) = base.bytes.addingReportingOverflow(UInt64(clamping: offset))
        return .malformed("a structure is cut off", at: HostOffset(overflow ? base.bytes : place))
    }
}
