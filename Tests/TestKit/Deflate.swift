// A few tests need a compressed cluster that no honest writer makes: one that inflates to far more, or far less, than
// a cluster. Raw deflate with fixed codes is enough, and is twenty lines.

/// Raw deflate streams of one repeated byte.
public enum Deflate {
    /// A stream that inflates to exactly `1 + 258 * matches` zero bytes.
    public static func zeros(matches: Int) -> [UInt8] {
        var bits = BitWriter()
        bits.put(1, count: 1)  // last block
        bits.put(1, count: 2)  // fixed codes
        bits.putCode(0x30, count: 8)  // literal 0
        for _ in 0..<matches {
            bits.putCode(0xc5, count: 8)  // length 258
            bits.putCode(0, count: 5)  // distance 1
        }
        bits.putCode(0, count: 7)  // end of block
        return bits.bytes
    }

    private struct BitWriter {
        var bytes: [UInt8] = []
        var used = 8

        mutating func put(_ value: UInt32, count: Int) {
            for index in 0..<count {
                if used == 8 {
                    bytes.append(0)
                    used = 0
                }
                bytes[bytes.count - 1] |= UInt8((value >> UInt32(index)) & 1) << UInt8(used)
                used += 1
            }
        }

        /// Huffman codes go in from their most significant bit.
        mutating func putCode(_ code: UInt32, count: Int) {
            for index in (0..<count).reversed() { put((code >> UInt32(index)) & 1, count: 1) }
        }
    }
}
