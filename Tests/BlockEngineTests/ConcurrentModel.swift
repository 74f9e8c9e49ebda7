// What threads do to one image at once can only be judged when every sector has an owner and says who
// wrote it. Sectors are dealt out in runs of odd sizes, so that threads share clusters and subclusters everywhere; a word
// that names its sector, its writer and the writer's count fills each, so that another cluster's bytes are seen at once.
import Glibc
import TestKit

/// What a sector holds, over and over: where it lies, who wrote it, when. 0: zeros.
struct SectorMark: Equatable, BitwiseCopyable {
    let word: UInt64
    /// Who writes what no thread of a burst does: the layers that an image begins with, and QEMU.
    static let layer = 8
    static let qemu = 12

    init(_ word: UInt64) { self.word = word }
    init(sector: Int, owner: Int, burst: Int, count: Int) {
        word = UInt64(sector) << 44 | UInt64(owner) << 40 | UInt64(burst & 0xffff) << 24 | UInt64(count & 0xffffff)
    }

    static let zeros = SectorMark(0)

    /// Fills the 512 bytes of a sector.
    func fill(_ place: UnsafeMutableRawPointer) {
        place.storeBytes(of: word, as: UInt64.self)
        for done in [8, 16, 32, 64, 128, 256] { memcpy(place + done, place, done) }
    }

    /// What a sector's 512 bytes hold; nil when they are not one word over and over.
    init?(_ place: UnsafeRawPointer) {
        guard memcmp(place, place + 8, 504) == 0 else { return nil }
        word = place.loadUnaligned(as: UInt64.self)
    }
}

extension SectorMark: CustomStringConvertible {
    var description: String {
        word == 0
            ? "zeros"
            : "sector \(word >> 44) by \(word >> 40 & 15) in burst \(word >> 24 & 0xffff), number \(word & 0xffffff)"
    }
}

/// A flat array of sectors. After a discard a sector may be zeros or as it was, until it is read.
struct SectorModel: Sendable {
    var marks: [UInt64]
    var mayBeZero: [Bool]

    init(_ bytes: [UInt8]) throws {
        marks = []
        for sector in 0..<bytes.count / 512 {
            let mark = bytes.withUnsafeBytes { $0.baseAddress.flatMap { SectorMark($0 + sector * 512) } }
            guard let mark else { throw TestFailure("sector \(sector) begins with what was not written") }
            marks.append(mark.word)
        }
        mayBeZero = [Bool](repeating: false, count: marks.count)
    }

    var size: Int { marks.count * 512 }

    /// Nil, or which sector of the whole disk is wrong. What is seen is settled.
    mutating func judge(_ bytes: [UInt8]) -> String? {
        guard bytes.count == size else { return "the disk has \(bytes.count) bytes instead of \(size)" }
        return bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return "there is no disk" }
            for sector in marks.indices {
                if let trouble = judge(sector, base + sector * 512) { return trouble }
            }
            return nil
        }
    }

    /// The same of one sector.
    @inline(__always) mutating func judge(_ sector: Int, _ place: UnsafeRawPointer) -> String? {
        let seen = SectorMark(place)
        if let seen, seen.word == marks[sector] {
            mayBeZero[sector] = false
            return nil
        }
        if mayBeZero[sector], seen == .zeros {
            marks[sector] = 0
            mayBeZero[sector] = false
            return nil
        }
        let or = mayBeZero[sector] ? " or zeros" : ""
        return "sector \(sector) holds \(seen?.description ?? "a mixture"), not \(SectorMark(marks[sector]))\(or)"
    }
}

/// Which thread may change which sector during one burst.
struct SectorOwners: Sendable {
    struct Run: Sendable {
        let first: Int
        let count: Int
    }
    private(set) var owner: [UInt8] = []
    private(set) var runs: [[Run]]

    /// Runs of one sector up to a few clusters, mostly of odd sizes; a few begin and end with a cluster.
    init(sectors: Int, cluster: Int, threads: Int, _ random: inout SeededRandom) {
        runs = Array(repeating: [], count: threads)
        let unit = max(cluster / 512, 1)
        var bits = 1
        while 1 << bits < unit * 4 { bits += 1 }
        while owner.count < sectors {
            var count = 1 + random.below(1 << random.below(bits + 1))
            if random.below(4) == 0 { count += unit - (owner.count + count) % unit }
            count = min(count, sectors - owner.count)
            let thread = random.below(threads)
            runs[thread].append(Run(first: owner.count, count: count))
            owner.append(contentsOf: repeatElement(UInt8(thread), count: count))
        }
        // Each has something.
        for thread in 0..<threads where runs[thread].isEmpty {
            let last = runs[Int(owner[sectors - 1])].removeLast()
            runs[thread].append(last)
            for sector in last.first..<last.first + last.count { owner[sector] = UInt8(thread) }
        }
    }
}

/// What the threads of a burst have in common, none of which changes.
struct Burst: Sendable {
    let number: Int
    let seed: UInt64
    let owners: SectorOwners
    let before: SectorModel
    let cluster: Int
    /// Of each thread.
    let operations: Int
    /// The longest transfer, in bytes.
    var room: Int { max(64 << 10, min(cluster * 2 + 1536, 512 << 10)) }

    /// Whether a word that was read may be in a sector that another thread changes meanwhile.
    @inline(__always) func allows(_ word: UInt64, _ sector: Int) -> Bool {
        if word == 0 || word == before.marks[sector] { return true }
        return word >> 24 == SectorMark(sector: sector, owner: Int(owners.owner[sector]), burst: number, count: 0).word
            >> 24
    }

    /// The same where a write was under way: whether each byte may be there. Those of the count may be any.
    func allowsParts(of word: UInt64, _ sector: Int) -> Bool {
        let new = SectorMark(sector: sector, owner: Int(owners.owner[sector]), burst: number, count: 0).word
        return stride(from: 24, to: 64, by: 8).allSatisfy { bit in
            let byte = word >> UInt64(bit) & 0xff
            return [0, new, before.marks[sector]].contains { $0 >> UInt64(bit) & 0xff == byte }
        }
    }
}
