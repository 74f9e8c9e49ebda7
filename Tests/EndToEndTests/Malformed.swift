// An image from a stranger may be wrong in any byte. Each case is a good image with one thing broken, and says which
// verbs must refuse it; the tables are in the files beside this one.

import Foundation
import TestKit

/// A verb of the command line, as the malformed images are shown to it.
enum Verb: String, Sendable, CaseIterable {
    case info, extents, convert, compare
    /// `convert -l kept`.
    case snapshot
}

/// The good image that is broken afterwards. All are small and written in whole clusters, so that damage has clear borders.
enum Base: String, Sendable {
    /// 2 MiB of 64 KiB clusters; 0-256 KiB and 1 MiB-1.25 MiB are written.
    case plain
    case version2
    case subclusters
    /// The same with a snapshot named "kept".
    case snapshot
    /// 256 KiB, all written, of 512-byte clusters: eight L2 tables.
    case small
    /// 1 MiB converted with -c.
    case zlib, zstd
    /// The plain layout over base.raw.
    case overlay
    /// The plain layout with its data in disk.data.
    case dataFile
    /// No image at all: the case makes what it needs.
    case none

    func make(_ builder: ImageBuilder) throws {
        let writes = ["write -P 1 0 256k", "write -P 2 1M 256k"]
        switch self {
        case .plain, .snapshot: try builder.create("2M")
        case .version2: try builder.create("2M", "compat=0.10")
        case .subclusters: try builder.create("2M", "extended_l2=on")
        case .small:
            try builder.create("256k", "cluster_size=512")
            return try builder.io(["write -P 3 0 256k"])
        case .zlib, .zstd:
            try builder.rawFile("in.raw", 1 << 20)
            return try builder.img(
                "convert", "-c", "-O", "qcow2", "-o", "compression_type=\(rawValue)", "in.raw", "image.qcow2")
        case .overlay:
            try builder.rawFile("base.raw", 2 << 20)
            try builder.create("", backing: "raw:base.raw")
        case .dataFile: try builder.create("2M", "data_file=disk.data")
        case .none: return
        }
        try builder.io(writes)
        if self == .snapshot { try builder.img("snapshot", "-c", "kept", "image.qcow2") }
    }
}

struct Malformed: Sendable, CustomStringConvertible {
    let name: String
    let base: Base
    /// Verbs that must end in one clear error. The others may do that too, or succeed with the right bytes.
    var fails: Set<Verb> = [.info, .extents, .convert, .compare]
    /// Verbs that must succeed.
    var works: Set<Verb> = []
    /// Words that the error of `convert` (or, if that works, of the failing verb) must have, in any case.
    var mentions: [String] = []
    /// The guest ranges that are lost; elsewhere `convert --salvage` still gives the right bytes.
    var lost: [Range<Int>]?
    let harm: @Sendable (ImageBuilder) throws -> Void

    var description: String { name }

    /// Breaks bytes of the image.
    static func bytes(_ name: String, _ base: Base = .plain, _ harm: @escaping @Sendable (inout Patcher) -> Void)
        -> Malformed
    {
        Malformed(name: name, base: base) { builder in try builder.patch { harm(&$0) } }
    }

    /// Breaks what lies around the image.
    static func files(_ name: String, _ base: Base = .none, _ harm: @escaping @Sendable (ImageBuilder) throws -> Void)
        -> Malformed
    {
        Malformed(name: name, base: base, harm: harm)
    }

    /// Only reading is harmed: the header is right, so `info` works.
    var onlyData: Malformed {
        var copy = self
        copy.fails = [.convert, .compare]
        copy.works = [.info]
        return copy
    }

    func losing(_ ranges: Range<Int>...) -> Malformed {
        var copy = onlyData
        copy.lost = ranges
        return copy
    }

    func failing(_ verbs: Verb..., working: [Verb] = []) -> Malformed {
        var copy = self
        copy.fails = Set(verbs)
        copy.works = Set(working)
        return copy
    }

    func mentioning(_ words: String...) -> Malformed {
        var copy = self
        copy.mentions = words
        return copy
    }

    /// Broken, but no byte of the guest's is in doubt: everything must work.
    var harmless: Malformed { failing(working: [.info, .extents, .convert, .compare]) }
    /// Broken where reading need not look: an error or the right bytes, nothing else.
    var tolerable: Malformed { failing() }

    /// Device nodes can be made by root only.
    static let all: [Malformed] = every.filter { geteuid() == 0 || !$0.name.contains("character-device") }

    private static let every: [Malformed] =
        headerFields + features + extensions + l1Tables + l2Tables + subclusterEntries + compressedClusters + snapshots
        + backingNames + backingFiles + dataFiles + strangeFiles + truncated
}
