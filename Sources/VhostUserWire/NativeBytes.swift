// Vhost-user never leaves the machine, so its integers have the machine's byte order. The one place that takes them
// out of a peer's bytes and puts them in; a read past the end is nil, never a trap.

extension [UInt8] {
    /// The integer at `offset`, in the machine's byte order; nil when the bytes end before it does.
    func native<T: FixedWidthInteger & UnsignedInteger>(_: T.Type, at offset: Int) -> T? {
        let width = T.bitWidth / 8
        guard offset >= 0, offset <= count, count - offset >= width else { return nil }
        var value: T = 0
        for i in (0..<width).reversed() { value = (value << 8) | T(truncatingIfNeeded: self[offset + i]) }
        return T(littleEndian: value)
    }

    mutating func append<T: FixedWidthInteger & UnsignedInteger>(native value: T) {
        let ordered = value.littleEndian
        for i in 0..<T.bitWidth / 8 { append(UInt8(truncatingIfNeeded: ordered >> T(8 * i))) }
    }
}
