// How counters stand in a refcount block: 1 to 64 bits wide, narrow ones filling their byte from its low end, wide
// ones big endian (specification: "Host cluster management").

/// Counters in one refcount block, or in several in a row.
enum RefcountBlock {
    static func load(_ block: [UInt8], _ index: Int, order: UInt32) -> UInt64 {
        switch order {
        // The width that nearly every image has, and its neighbour: a search for free clusters reads thousands.
        case 4: return UInt64(block[2 * index]) << 8 | UInt64(block[2 * index + 1])
        case 3: return UInt64(block[index])
        case 0..<3:
            let bit = index << Int(order)
            return UInt64(block[bit >> 3] >> UInt8(bit & 7)) & largest(order: order)
        default:
            let width = 1 << (Int(order) - 3)
            return block[index * width..<(index + 1) * width].reduce(0) { $0 << 8 | UInt64($1) }
        }
    }

    /// `value` must fit. The bytes that changed.
    @discardableResult
    static func store(_ value: UInt64, into block: inout [UInt8], _ index: Int, order: UInt32) -> Range<Int> {
        guard order >= 3 else {
            let bit = index << Int(order)
            let mask = UInt8(largest(order: order)) << UInt8(bit & 7)
            let bits = UInt8(truncatingIfNeeded: value << UInt64(bit & 7)) & mask
            block[bit >> 3] = block[bit >> 3] & ~mask | bits
            return bit >> 3..<bit >> 3 + 1
        }
        let width = 1 << (Int(order) - 3)
        for i in 0..<width {
            block[index * width + i] = UInt8(truncatingIfNeeded: value >> UInt64(8 * (width - 1 - i)))
        }
        return index * width..<(index + 1) * width
    }

    /// The largest count a width can say.
    static func largest(order: UInt32) -> UInt64 { order == 6 ? .max : (1 << (1 << UInt64(order))) - 1 }
}
