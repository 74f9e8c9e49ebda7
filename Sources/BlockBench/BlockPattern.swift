// The bytes that `verify` writes: they say where they belong, which run wrote them and how often. So a block that is
// stale, torn or another's is told from the right one, and the message says which it is.
import DiskTypes

/// What a verified block holds: in each sector its offset on the disk, the seed of the run, the generation of the block
/// (how often the run has written it), and words that follow from these.
struct BlockPattern: BitwiseCopyable, Sendable {
    let seed: UInt64

    private static let magic: UInt64 = 0x6863_6e65_626b_6c71  // "qlkbench"
    private static let sectorWords = 64
    private static let step: UInt64 = 0x9e37_79b9_7f4a_7c15

    /// The first of the words that follow from a sector's offset, seed and generation.
    @inline(__always) private func base(_ offset: UInt64, _ generation: UInt64) -> UInt64 {
        var x = offset ^ seed &* 0xbf58_476d_1ce4_e5b9 ^ generation << 40
        x = (x ^ x >> 30) &* 0xbf58_476d_1ce4_e5b9
        x = (x ^ x >> 27) &* 0x94d0_49bb_1331_11eb
        return x ^ x >> 31
    }

    /// Writes the pattern of the block at `offset` into memory of whole sectors.
    func fill(_ memory: UnsafeMutableRawPointer, _ bytes: Int, offset: UInt64, generation: UInt32) {
        let words = unsafe memory.assumingMemoryBound(to: UInt64.self)
        for sector in 0..<bytes / 512 {
            let place = offset &+ UInt64(sector * 512)
            let own = unsafe words + sector * Self.sectorWords
            unsafe own[0] = Self.magic.littleEndian
            unsafe own[1] = place.littleEndian
            unsafe own[2] = seed.littleEndian
            unsafe own[3] = UInt64(generation).littleEndian
            var word = base(place, UInt64(generation))
            for i in 4..<Self.sectorWords {
                unsafe own[i] = word.littleEndian
                word = word &+ Self.step
            }
        }
    }

    /// The first byte at which the block at `offset` is not as written; nil when it is. Without `generation` any
    /// generation will do, as long as all sectors have the same.
    func check(
        _ memory: UnsafeRawPointer, _ bytes: Int, offset: UInt64, generation: UInt32?
    ) -> PatternMismatch? {
        let words = unsafe memory.assumingMemoryBound(to: UInt64.self)
        let expected = unsafe generation.map { UInt64($0) } ?? UInt64(littleEndian: words[3])
        for sector in 0..<bytes / 512 {
            let place = offset &+ UInt64(sector * 512)
            let own = unsafe words + sector * Self.sectorWords
            let heads = (Self.magic, place, seed, expected)
            guard unsafe own[0] == heads.0.littleEndian, unsafe own[1] == heads.1.littleEndian,
                unsafe own[2] == heads.2.littleEndian,
                unsafe own[3] == heads.3.littleEndian
            else { return unsafe mismatch(own, place, at: 0, generation) }
            var word = base(place, expected)
            for i in 4..<Self.sectorWords {
                if unsafe own[i] != word.littleEndian { return unsafe mismatch(own, place, at: i * 8, generation) }
                word = word &+ Self.step
            }
        }
        return nil
    }

    /// The mismatch at byte `byte` of a sector, by what the sector holds instead.
    private func mismatch(
        _ words: UnsafePointer<UInt64>, _ place: UInt64, at byte: Int, _ generation: UInt32?
    ) -> PatternMismatch {
        let found: PatternMismatch.Found
        if unsafe UInt64(littleEndian: words[0]) != Self.magic {
            found = (0..<Self.sectorWords).allSatisfy { unsafe words[$0] == 0 } ? .zeros : .foreign
        } else if unsafe UInt64(littleEndian: words[2]) != seed {
            found = unsafe .otherRun(seed: UInt64(littleEndian: words[2]))
        } else if unsafe UInt64(littleEndian: words[1]) != place {
            found = unsafe .otherPlace(UInt64(littleEndian: words[1]))
        } else if byte == 0 {
            found = unsafe .otherGeneration(UInt64(littleEndian: words[3]))
        } else {
            found = .damaged
        }
        return PatternMismatch(offset: place &+ UInt64(byte), expected: generation, found: found)
    }
}

/// A byte of the disk that is not as the benchmark has written it.
public struct PatternMismatch: Sendable, Equatable {
    /// What is there instead.
    public enum Found: Sendable, Equatable {
        /// The sector is all zeros.
        case zeros
        /// The sector was not written by this benchmark.
        case foreign
        /// The sector is from a run with another seed.
        case otherRun(seed: UInt64)
        /// The sector belongs to this offset of the disk, in bytes.
        case otherPlace(UInt64)
        /// The sector is from this write of the block, counted from 1 in each run.
        case otherGeneration(UInt64)
        /// The sector's first four words are right, what follows is not.
        case damaged
    }
    /// Where on the disk the first wrong byte is.
    public let offset: UInt64
    /// Which write of the block the sector should be from, counted from 1; nil: one of an earlier run.
    public let expected: UInt32?
    /// What the sector holds.
    public let found: Found
}

extension PatternMismatch: CustomStringConvertible {
    /// One sentence, without an end stop.
    public var description: String {
        let what =
            switch found {
            case .zeros: "zeros"
            case .foreign: "something that this benchmark did not write"
            case .otherRun(let seed): "data of a run with seed \(seed)"
            case .otherPlace(let place): "what belongs to offset \(hex(place))"
            case .otherGeneration(let number): "write number \(number) of that block"
            case .damaged: "damaged data"
            }
        return "offset \(hex(offset)) holds \(what)" + (expected.map { ", not write number \($0)" } ?? "")
    }
}
