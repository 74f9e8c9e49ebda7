// Why this file exists: deflate works hardest on what it cannot shrink: encrypted, compressed or random bytes, of which
// disks are full. Telling those apart costs a tenth of trying.
import Glibc

/// Finds bytes on which deflate with a 4 KiB window would spend its time for nothing.
struct NoiseScan {
    /// Where a hash of four bytes was last seen, plus one.
    private var seen = [Int32](repeating: 0, count: 4096)
    private static let window = 4096
    /// Repetitions of four bytes that may be: each saves a dozen bits, all together less than the code table takes.
    private static let repetitionLimit = 16

    /// Whether neither codes for the bytes nor repetitions can save anything. Small clusters are always tried.
    mutating func isNoise(_ start: UnsafeRawPointer, _ count: Int) -> Bool {
        guard count >= 8192 else { return false }
        return isFlat(start, count) && !repeats(start, count)
    }

    /// Whether all byte values are about as frequent as in random bytes: the entropy of n random bytes falls short of 8
    /// bits by 184 / n on average; twice that is still less than a code table takes.
    private func isFlat(_ start: UnsafeRawPointer, _ count: Int) -> Bool {
        withUnsafeTemporaryAllocation(of: Int32.self, capacity: 1024) { counts in
            counts.initialize(repeating: 0)
            // Four tables: equal neighbours do not wait for each other.
            for at in stride(from: 0, to: count & ~3, by: 4) {
                let word = start.loadUnaligned(fromByteOffset: at, as: UInt32.self)
                counts[Int(word & 255)] &+= 1
                counts[256 + Int(word >> 8 & 255)] &+= 1
                counts[512 + Int(word >> 16 & 255)] &+= 1
                counts[768 + Int(word >> 24)] &+= 1
            }
            let total = Double(count & ~3)
            var bits = 0.0
            for value in 0..<256 {
                let sum = counts[value] + counts[256 + value] + counts[512 + value] + counts[768 + value]
                if sum > 0 { bits += Double(sum) * log2(total / Double(sum)) }
            }
            return bits >= total * 8 - 368
        }
    }

    private mutating func repeats(_ start: UnsafeRawPointer, _ count: Int) -> Bool {
        seen.withUnsafeMutableBufferPointer { seen in
            seen.update(repeating: 0)
            var found = 0
            for at in 0..<(count - 3) {
                let word = start.loadUnaligned(fromByteOffset: at, as: UInt32.self)
                let slot = Int((word &* 0x9e37_79b1) >> 20)
                let last = Int(seen[slot]) - 1
                seen[slot] = Int32(truncatingIfNeeded: at + 1)
                guard last >= 0, at - last <= Self.window,
                    start.loadUnaligned(fromByteOffset: last, as: UInt32.self) == word
                else { continue }
                found += 1
                if found > Self.repetitionLimit { return true }
            }
            return false
        }
    }
}
