// The feature bits of version 3 headers, their names, and what an unknown one means.

import DiskTypes

/// Incompatible features: an image with an unknown bit cannot be opened at all.
public struct IncompatibleFeatures: OptionSet, Sendable {
    /// The field as it is in the header.
    public let rawValue: UInt64
    /// The features of a header's field, unknown bits included.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Refcounts may be stale; repair before writing. Reading is fine.
    public static let dirty = Self(rawValue: 1 << 0)
    /// Metadata is known to be damaged; no writing.
    public static let corrupt = Self(rawValue: 1 << 1)
    /// Data is in a file of its own, which the header names.
    public static let externalDataFile = Self(rawValue: 1 << 2)
    /// The header's compression_type is not zlib.
    public static let compressionType = Self(rawValue: 1 << 3)
    /// L2 entries are 16 bytes: clusters have 32 subclusters.
    public static let extendedL2 = Self(rawValue: 1 << 4)

    static let known: Self = [.dirty, .corrupt, .externalDataFile, .compressionType, .extendedL2]
    /// The bits this program does not know.
    var unknown: UInt64 { rawValue & ~Self.known.rawValue }
}

/// Compatible features: unknown bits are ignored.
public struct CompatibleFeatures: OptionSet, Sendable {
    /// The field as it is in the header.
    public let rawValue: UInt64
    /// The features of a header's field, unknown bits included.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// A writer may leave refcounts behind the mapping, and sets the dirty bit meanwhile.
    public static let lazyRefcounts = Self(rawValue: 1 << 0)
}

/// Autoclear features: a writer that does not know a bit clears it before its first write.
public struct AutoclearFeatures: OptionSet, Sendable {
    /// The field as it is in the header.
    public let rawValue: UInt64
    /// The features of a header's field, unknown bits included.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    /// The bitmaps extension is consistent with the data.
    public static let bitmaps = Self(rawValue: 1 << 0)
    /// The external data file read as a raw image has the guest's bytes.
    public static let rawExternalData = Self(rawValue: 1 << 1)
}

/// One row of the feature name table (header extension 0x6803f857).
public struct FeatureName: Equatable, Sendable {
    /// Which of the three feature fields a row names a bit of.
    public enum Kind: UInt8, Sendable { case incompatible = 0, compatible, autoclear }
    /// The field: a `Kind`, or a number that no known field has.
    public let kind: UInt8
    /// The bit's number in the field, 0 to 63.
    public let bit: UInt8
    /// The feature's name, at most 46 bytes.
    public let name: String
}

extension IncompatibleFeatures {
    /// Refuses unknown bits, naming each with the image's own feature name table where that has it.
    func refuseUnknown(names: [FeatureName]) throws(ImageError) {
        guard unknown != 0 else { return }
        let words = (0..<64).filter { unknown & (1 << UInt64($0)) != 0 }.map { bit in
            names.first { $0.kind == FeatureName.Kind.incompatible.rawValue && $0.bit == UInt8(bit) }
                .map { "\"\(printable($0.name))\" (bit \(bit))" } ?? "bit \(bit)"
        }
        throw .unsupported(
            "the image uses incompatible features this program does not know: \(words.joined(separator: ", "))",
            advice: "read it with the program that made it")
    }
}
