// The free clusters that each worker keeps for its next writes. Workers that write one image at a time, each in a row,
// would else leave their clusters mixed in the file, and to read a row would take many reads.

/// Free clusters that count as used already, a run for each worker. What is left of them becomes free again; what a killed
/// process had left is a leak.
struct Reservations {
    private struct Run {
        var clusters: Range<UInt64> = 0..<0
        /// Never written: they read as zeros.
        var isUntouched = false
    }

    /// By the worker's place; a single worker needs none.
    private var runs: [Int: Run] = [:]
    /// What workers left behind.
    private var loose: [Range<UInt64>] = []
    private let batch: UInt64

    private static let batchBytes: UInt64 = 1 << 20
    private static let mostClusters: UInt64 = 64

    init(clusterSize: UInt64) { batch = min(Self.batchBytes / clusterSize, Self.mostClusters) }

    mutating func enter(_ place: Int) { runs[place] = Run() }

    mutating func leave(_ place: Int) {
        if let left = runs.removeValue(forKey: place)?.clusters, !left.isEmpty { loose.append(left) }
    }

    private func isBatched(_ count: Int, _ place: Int) -> Bool {
        runs.count > 1 && UInt64(count) < batch && runs[place] != nil
    }

    /// Clusters for a write of up to `count` of them, from the worker's own run.
    mutating func take(_ count: Int, at place: Int) -> (clusters: Range<UInt64>, isUntouched: Bool)? {
        guard isBatched(count, place), let run = runs[place], !run.clusters.isEmpty else { return nil }
        let end = min(run.clusters.lowerBound + UInt64(count), run.clusters.upperBound)
        runs[place]?.clusters = end..<run.clusters.upperBound
        return (run.clusters.lowerBound..<end, run.isUntouched)
    }

    /// How many to allocate for a write of `count`; `keep` is then told what came of it.
    func wanted(_ count: Int, at place: Int) -> Int { isBatched(count, place) ? Int(batch) : count }

    /// Keeps what is behind the first `count` of `clusters`. Gives what the write gets.
    mutating func keep(
        _ clusters: Range<UInt64>, behind count: Int, at place: Int, isUntouched: Bool
    ) -> Range<UInt64> {
        let end = clusters.lowerBound + UInt64(count)
        guard end < clusters.upperBound else { return clusters }
        runs[place] = Run(clusters: end..<clusters.upperBound, isUntouched: isUntouched)
        return clusters.lowerBound..<end
    }

    /// A cluster that a worker keeps; `dropLast` takes it back.
    var last: UInt64? {
        if let run = loose.last { return run.upperBound - 1 }
        return keeper.map { $0.value.clusters.upperBound - 1 }
    }

    mutating func dropLast() {
        if let run = loose.popLast() {
            if run.count > 1 { loose.append(run.dropLast()) }
        } else if let (place, run) = keeper {
            runs[place]?.clusters = run.clusters.dropLast()
        }
    }

    private var keeper: (key: Int, value: Run)? { runs.first { !$0.value.clusters.isEmpty } }
}
