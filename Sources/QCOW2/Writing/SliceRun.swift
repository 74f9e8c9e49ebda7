// Words of an L2 slice that are written together. The entries that a write-back has for a slice are often many and
// seldom neighbours, and a write for each would be thousands; so what lies between two of them goes along where it is
// the same on the disk.

import DiskTypes

/// Words of a slice that are written together, as they were in one moment.
struct SliceRun {
    let first: Int
    private(set) var words: [UInt64]

    /// Clean words between two dirty ones that are rather written again than left out: a sector of them.
    private static let gap = 64

    /// As they are in the file.
    var bytes: [UInt8] { unsafe words.map(\.bigEndian).withUnsafeBytes { unsafe Array($0) } }

    /// For the holder of the writer's lock: every entry is then one that may be written now. The slice is pinned.
    static func runs(of dirty: DirtyWords, in map: QCOW2Map) -> [SliceRun] {
        var runs: [SliceRun] = []
        var next = 0
        dirty.visit { index in
            if !runs.isEmpty, index - next < gap, isAsOnDisk(dirty.slice, next..<index, map) {
                for word in next...index { runs[runs.count - 1].words.append(map.cache.word(dirty.slice, word)) }
            } else {
                runs.append(SliceRun(first: index, words: [map.cache.word(dirty.slice, index)]))
            }
            next = index + 1
        }
        return runs
    }

    /// A broken entry is a mark of ours in memory, and of a pair of words the second means nothing then. What is broken on
    /// the disk stays as it is there.
    private static func isAsOnDisk(_ slice: Int, _ range: Range<Int>, _ map: QCOW2Map) -> Bool {
        range.allSatisfy { index in
            let first = map.rules.subclusters ? index & ~1 : index
            return !MappingWord(map.cache.word(slice, first)).isDamaged
        }
    }
}
