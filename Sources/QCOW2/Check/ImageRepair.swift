// The steps of a repair, each of which may be the last before the power fails. They come in the order that
// `ImageCheck.repair` gives, and no step writes before its turn.

import DiskTypes

/// Puts right what a check has found. Used once, by one thread.
final class ImageRepair<Storage: ImageStorage> {
    let checker: ImageChecker<Storage>
    let storage: Storage
    private(set) var hasWritten = false

    init(_ checker: ImageChecker<Storage>, _ storage: Storage) {
        self.checker = checker
        self.storage = storage
    }

    var header: Header { checker.header }
    /// Clusters that seem unused are unused.
    var mayLower: Bool { checker.report.keepsLeaks == nil }

    func run(_ mode: RepairMode) throws(ImageError) {
        let report = checker.report
        switch mode {
        case .leaks:
            // A structure that needs to be made anew may lie in the guest's data: only `all` deals with that.
            guard report.leaks > 0, mayLower, !report.needsRebuild else { return }
            try dropUnknownAutoclear()
            try adjust(.lower)
            // A cluster that was shared may be its user's alone again. With other damage about, flags are not touched.
            if report.corruptions == 0 { try fixFlags() }
        case .all:
            guard report.leaks > 0 || report.corruptions > 0 else { return }
            try dropUnknownAutoclear()
            if report.needsRebuild { try rebuild() } else if checker.hasWrongCounts { try adjust(.raise) }
            try fixFlags()
            if !report.needsRebuild, mayLower, report.leaks > 0 { try adjust(.lower) }
        }
    }

    /// What a cluster's refcount is once the repair is done.
    func wanted(_ cluster: UInt64) throws(ImageError) -> UInt64 {
        let references = checker.counts[cluster]
        // A new structure takes the place of the old one, whose clusters are free in any case: nothing else means them.
        let old = checker.report.needsRebuild ? checker.structure[cluster] ?? 0 : 0
        let count = min(references - min(old, references), checker.stored.largest)
        return mayLower || (old > 0 && count == 0) ? count : max(count, try checker.stored.count(of: cluster))
    }

    func write(_ bytes: [UInt8], at place: HostOffset) throws(ImageError) {
        hasWritten = true
        try storage.write(at: place, bytes)
    }

    /// The end of a step: what was written is durable before anything else is; and a place to stop.
    func endStep() throws(ImageError) {
        guard hasWritten else { return }
        try storage.sync()
        try checker.stopIfInterrupted()
    }

    // MARK: refcounts in place

    enum Direction { case raise, lower }

    /// Makes stored refcounts what the references say, where that is more (or less).
    private func adjust(_ direction: Direction) throws(ImageError) {
        let stored = checker.stored
        // What lies behind the end of the file was not compared and is left as it is.
        let end = max(checker.fileClusters, checker.counts.highest.map { $0 + 1 } ?? 0)
        for index in 0..<stored.table.count {
            let all = stored.clusters(ofBlock: index)
            guard all.lowerBound < end else { break }
            guard let old = try stored.block(index) else { continue }
            try checker.stopIfInterrupted()
            let range = all.lowerBound..<min(all.upperBound, end)
            var new = old
            for cluster in range {
                let slot = Int(cluster - range.lowerBound)
                let count = RefcountBlock.load(new, slot, order: stored.order)
                let wanted = min(checker.counts[cluster], stored.largest)
                if direction == .raise ? wanted > count : wanted < count {
                    RefcountBlock.store(wanted, into: &new, slot, order: stored.order)
                }
            }
            try writeChanges(old, new, at: HostOffset(stored.table[index]))
        }
        try endStep()
    }

    /// Writes the sectors in which `new` differs.
    func writeChanges(_ old: [UInt8], _ new: [UInt8], at place: HostOffset) throws(ImageError) {
        guard old != new else { return }
        for start in stride(from: 0, to: new.count, by: 512) {
            let end = min(start + 512, new.count)
            if old[start..<end] != new[start..<end] {
                try write(Array(new[start..<end]), at: place + UInt64(start))
            }
        }
    }

    // MARK: header bits

    /// The image is right: nothing in it is to be distrusted any more.
    func clearBits() throws(ImageError) {
        let bits = header.incompatible.subtracting([.dirty, .corrupt])
        guard bits != header.incompatible else { return }
        try dropUnknownAutoclear()
        try storage.sync()
        try write(bigEndian(bits.rawValue), at: HostOffset(72))
        try storage.sync()
    }

    private func dropUnknownAutoclear() throws(ImageError) {
        let known = header.autoclear.intersection([.bitmaps, .rawExternalData])
        guard known != header.autoclear else { return }
        try write(bigEndian(known.rawValue), at: HostOffset(88))
        try endStep()
    }
}

/// The bytes of an integer as the image has them.
func bigEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
    (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> T(T.bitWidth - 8 - $0 * 8)) }
}
