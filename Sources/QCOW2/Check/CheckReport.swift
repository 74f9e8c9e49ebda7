// What a check found, for `check`, for tests and for a repair that wants to know what is left. The numbers are exact;
// the list of places is bounded, for a hostile image could name billions.

public import DiskTypes

/// One thing that is wrong, and where.
public struct CheckFinding: Sendable, Equatable {
    /// How bad a finding is.
    public enum Severity: Sendable, Equatable {
        /// Takes space that nothing uses; harmless.
        case leak
        /// Data is lost or wrong, or a write could make it so.
        case corruption
        /// Worth knowing, counted nowhere.
        case note
    }
    /// How bad it is.
    public let severity: Severity
    /// What is wrong, in words; a part of a line.
    public let what: String
    /// Where in the file; nil where no one place is meant.
    public let at: HostOffset?

    /// The line that `check` prints.
    public var line: String {
        let place = at.map { " (\($0))" } ?? ""
        return switch severity {
        case .leak: "Leaked \(what)\(place)"
        case .corruption: "ERROR \(what)\(place)"
        case .note: "Note: \(what)\(place)"
        }
    }
}

/// The outcome of a check: qemu-img's numbers under qemu-img's names.
public struct CheckReport: Sendable, Equatable {
    /// What all findings come to: nothing wrong, only leaks, or errors.
    public enum Verdict: Sendable, Equatable { case clean, leaks, corrupt }

    /// Errors that are found, or that are left after a repair.
    public internal(set) var corruptions: UInt64 = 0
    /// Leaked clusters that are found, or that are left after a repair.
    public internal(set) var leaks: UInt64 = 0
    /// Errors that a repair has put right.
    public internal(set) var corruptionsFixed: UInt64 = 0
    /// Leaked clusters that a repair has freed.
    public internal(set) var leaksFixed: UInt64 = 0
    /// Behind the last cluster that is used or counted as used.
    public internal(set) var imageEnd = HostOffset(0)
    /// Clusters of the guest's disk.
    public internal(set) var totalClusters: UInt64 = 0
    /// Clusters of the guest's disk that have storage in the active state.
    public internal(set) var allocatedClusters: UInt64 = 0
    /// Allocated clusters that do not follow their neighbour in the file.
    public internal(set) var fragmentedClusters: UInt64 = 0
    /// Allocated clusters that are compressed.
    public internal(set) var compressedClusters: UInt64 = 0
    /// The first findings, at most `CheckOptions.findingLimit`.
    public internal(set) var findings: [CheckFinding] = []
    /// How many findings are not in `findings`.
    public internal(set) var findingsLeftOut: UInt64 = 0
    /// The refcount table or a block of it cannot be used, or is missing: repair has to make a new one.
    public internal(set) var needsRebuild = false
    /// Something that the image uses lies behind the end of its file.
    public internal(set) var isTruncated = false
    /// Guest data lies behind the end of the external data file; known only where the options give its length.
    public internal(set) var isDataTruncated = false
    /// Why the refcounts of clusters that seem unused were kept by a repair; nil when they may be given back.
    public internal(set) var keepsLeaks: String?

    /// What the numbers come to: errors count more than leaks.
    public var verdict: Verdict { corruptions > 0 ? .corrupt : leaks > 0 ? .leaks : .clean }

    /// Counts a finding and keeps it while there is room.
    mutating func add(_ finding: CheckFinding, limit: Int) {
        switch finding.severity {
        case .leak: leaks &+= 1
        case .corruption: corruptions &+= 1
        case .note: break
        }
        if findings.count < limit { findings.append(finding) } else { findingsLeftOut &+= 1 }
    }
}

/// How to check.
public struct CheckOptions {
    /// Findings to keep; all are counted.
    public var findingLimit = 1000
    /// Bytes for counting references. One cluster of the file takes one byte, and only where there are references.
    public var memoryLimit = 1 << 30
    /// Bytes of the external data file, to find guest data behind its end; nil: that is not checked.
    public var dataLength: UInt64?
    /// Hears how far it is. Called between two tables.
    public var progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }
    /// Asked between two tables and, in a repair, between two steps: whether to stop.
    public var isInterrupted: () -> Bool = { false }

    /// 1000 findings, 1 GiB of memory, no progress, no interruption.
    public init() {}
}

/// What a repair may change.
public enum RepairMode: Sendable {
    /// Gives back clusters that nothing refers to.
    case leaks
    /// Everything that can be put right without guessing at data.
    case all
}
