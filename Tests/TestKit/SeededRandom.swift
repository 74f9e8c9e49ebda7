// Random tests print their seed, and with it a failing run can be made again. All of them draw from this one source.

public import Foundation

/// A small reproducible random source (splitmix64).
public struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64
    public init(_ seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// A number from 0 up to `limit`, without it; 0 where that is none.
    public mutating func below(_ limit: Int) -> Int { Int(next() >> 1) % max(limit, 1) }

    /// The same for offsets and sizes; `bound` is at least 1.
    public mutating func number(below bound: UInt64) -> UInt64 { UInt64.random(in: 0..<bound, using: &self) }

    /// True once in `oneIn` times.
    public mutating func chance(_ oneIn: UInt64) -> Bool { number(below: oneIn) == 0 }

    public mutating func bytes(_ count: Int) -> Data {
        var data = Data(capacity: count + 8)
        while data.count < count {
            withUnsafeBytes(of: next()) { data.append(contentsOf: $0) }
        }
        return data.prefix(count)
    }
}
