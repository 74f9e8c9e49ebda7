// The references that a check has counted, for every cluster of the file. A byte for each cluster that has any keeps
// that small (16 MiB for 1 TiB of 64 KiB clusters), and a hostile file of exabytes takes only what it refers to.

import DiskTypes

/// How often each cluster of the file is referred to, and as what.
struct ClusterCounts {
    /// What a cluster is used as. The higher one stays when there are two.
    enum Use: UInt8 {
        case none = 0
        /// Guest data: may be shared, by snapshots and by compressed clusters.
        case data
        /// An L2 table: may be shared by snapshots.
        case table
        /// Any other metadata: belongs to one user.
        case unique
    }

    /// Clusters of a page: 2 to this power. A page is one allocation.
    static let pageBits: UInt64 = 12
    private static let pageClusters = 1 << 12
    /// Low six bits of a cell: the count, up to this; this itself means that `large` has it. High two bits: the use.
    private static let countMask: UInt8 = 0x3f

    private var slots: [UInt64: Int] = [:]
    private var pages: ContiguousArray<ContiguousArray<UInt8>> = []
    private var large: [UInt64: UInt64] = [:]
    private let pageLimit: Int
    private var lastPage = UInt64.max
    private var lastSlot = 0
    /// The last cluster with a reference.
    private(set) var highest: UInt64?

    init(memoryLimit: Int) { pageLimit = max(1, memoryLimit >> Int(Self.pageBits)) }

    /// Counts `weight` references; what the cluster was used as before.
    mutating func add(_ cluster: UInt64, as use: Use, weight: UInt64) throws(ImageError) -> Use {
        let slot = try slot(of: cluster >> Self.pageBits)
        let index = Int(truncatingIfNeeded: cluster) & (Self.pageClusters - 1)
        let cell = pages[slot][index]
        let before = Use(rawValue: cell >> 6) ?? .none
        let kept = max(before.rawValue, use.rawValue) << 6
        let small = cell & Self.countMask
        let known = small == Self.countMask ? large[cluster] ?? 0 : UInt64(small)
        let (sum, overflow) = known.addingReportingOverflow(weight)
        if sum < UInt64(Self.countMask), !overflow {
            pages[slot][index] = kept | UInt8(sum)
        } else {
            pages[slot][index] = kept | Self.countMask
            large[cluster] = overflow ? .max : sum
        }
        highest = max(highest ?? 0, cluster)
        return before
    }

    subscript(cluster: UInt64) -> UInt64 {
        guard let slot = slots[cluster >> Self.pageBits] else { return 0 }
        return value(pages[slot][Int(truncatingIfNeeded: cluster) & (Self.pageClusters - 1)], cluster)
    }

    func use(of cluster: UInt64) -> Use {
        guard let slot = slots[cluster >> Self.pageBits] else { return .none }
        return Use(rawValue: pages[slot][Int(truncatingIfNeeded: cluster) & (Self.pageClusters - 1)] >> 6) ?? .none
    }

    /// The pages with references, by the number of their first cluster, in order.
    var pageStarts: [UInt64] { slots.keys.sorted().map { $0 << Self.pageBits } }

    /// Calls `body` with every cluster of `range` that has references, and their number, in order.
    func forEach(
        in range: Range<UInt64>, pageStarts: [UInt64], _ body: (UInt64, UInt64) throws(ImageError) -> Void
    ) throws(ImageError) {
        let size = UInt64(Self.pageClusters)
        var at = firstPage(pageStarts, covering: range.lowerBound)
        while at < pageStarts.count, pageStarts[at] < range.upperBound {
            let start = pageStarts[at]
            at += 1
            guard let slot = slots[start >> Self.pageBits] else { continue }
            let from = max(start, range.lowerBound)
            let to = min(start &+ size, range.upperBound)
            guard from < to else { continue }
            for cluster in from..<to {
                let count = value(pages[slot][Int(truncatingIfNeeded: cluster - start)], cluster)
                if count > 0 { try body(cluster, count) }
            }
        }
    }

    private func value(_ cell: UInt8, _ cluster: UInt64) -> UInt64 {
        let small = cell & Self.countMask
        return small == Self.countMask ? large[cluster] ?? 0 : UInt64(small)
    }

    /// The index of the first page that ends behind `cluster`.
    private func firstPage(_ starts: [UInt64], covering cluster: UInt64) -> Int {
        var (low, high) = (0, starts.count)
        while low < high {
            let middle = (low + high) / 2
            if starts[middle] &+ UInt64(Self.pageClusters) <= cluster { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private mutating func slot(of page: UInt64) throws(ImageError) -> Int {
        if page == lastPage { return lastSlot }
        lastPage = page
        if let known = slots[page] {
            lastSlot = known
            return known
        }
        guard pages.count < pageLimit else {
            lastPage = .max
            throw .unsupported(
                "the image refers to so many places that counting them takes more than \(pageLimit >> 8) MiB",
                advice: "convert it to larger clusters")
        }
        lastSlot = pages.count
        slots[page] = lastSlot
        pages.append(ContiguousArray(repeating: 0, count: Self.pageClusters))
        return lastSlot
    }
}
