// Tables and headers that are written, put together in memory, with every field's width in its call: the counterpart
// of `BigEndianBytes`.

/// Bytes being filled with big-endian integers.
struct BigEndianTable {
    private(set) var bytes: [UInt8]

    init(count: Int) { bytes = [UInt8](repeating: 0, count: count) }

    mutating func put<T: FixedWidthInteger & UnsignedInteger>(_ value: T, at offset: Int) {
        for i in 0..<(T.bitWidth / 8) {
            bytes[offset + i] = UInt8(truncatingIfNeeded: value >> T(T.bitWidth - 8 - 8 * i))
        }
    }

    mutating func put(_ text: some Sequence<UInt8>, at offset: Int) {
        for (i, byte) in text.enumerated() { bytes[offset + i] = byte }
    }

    /// Big-endian words, one after the other.
    static func words(_ words: some Sequence<UInt64>, count: Int) -> [UInt8] {
        var table = BigEndianTable(count: count * 8)
        for (i, word) in words.enumerated() { table.put(word, at: i * 8) }
        return table.bytes
    }
}
