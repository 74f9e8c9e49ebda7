// What the caller of a comparison decides, and what comes of it.

public import DiskTypes
public import ImageChain

/// How to compare two images.
public struct CompareOptions: Sendable {
    /// How to open the first image.
    public var first = OpenOptions()
    /// How to open the second image.
    public var second = OpenOptions()
    /// Sizes and allocation must be the same, too.
    public var strict = false
    /// Threads, this one included.
    public var workers = ConvertOptions.defaultWorkers
    /// Stops the comparison when set: an error then.
    public var cancel = CancelFlag()

    /// Formats are probed; sizes and allocation may differ.
    public init() {}
}

/// What two images have in common.
public struct Comparison: Equatable, Sendable {
    /// The answer; offsets are bytes of the disk.
    public enum Verdict: Equatable, Sendable {
        case identical
        /// Strict: one is longer.
        case sizesDiffer
        /// Strict: from here on one has what the other has not.
        case statusDiffers(at: UInt64)
        /// The first sector in which they differ.
        case contentDiffers(at: UInt64)
    }
    /// The answer for the part that both have.
    public var verdict: Verdict
    /// One is longer, and what both have is the same. The rest of the longer one counts as equal if it is zeros.
    public var hasOtherSize = false
}

/// Why a comparison came to no result, and qemu-img's exit code for that.
public struct CompareFailure: Error, Sendable {
    /// What could not be done, with qemu-img's exit code.
    public enum Step: Int32, Sendable { case opening = 2, mapping = 3, reading = 4 }
    /// What could not be done.
    public let step: Step
    /// Why.
    public let error: ImageError
}
