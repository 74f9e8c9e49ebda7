// Integers in a peer's bytes, in the machine's byte order: vhost-user never leaves the machine. All payloads are
// decoded and encoded through these two functions; a read past the end is nil, never a trap.

extension [UInt8] {
    /// The integer at `offset`, in the machine's byte order; nil when the bytes end before it does.
    func native<T: FixedWidthInteger & UnsignedInteger>(_: T.Type, at offset: Int) -> T? {
        let width = T.bitWidth / 8
        guard offset >= 0, offset <= count, count - offset >= width else { return nil }
        var value: T = 0
        for i in (0..<width).reversed() { value = (value << 8) | T(truncatingIfNeeded: self[offset + i]) }
        return T(littleEndian: value)
    }

    /// Appends the integer, in the machine's byte order.
    mutating func append<T: FixedWidthInteger & UnsignedInteger>(native value: T) {
        let ordered = value.littleEndian
        for i in 0..<T.bitWidth / 8 { append(UInt8(truncatingIfNeeded: ordered >> T(8 * i))) }
    }
}
