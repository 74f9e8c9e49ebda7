// How the image file grows. Each growth makes the file longer by much, so that few writes wait for one; where the system
// refuses that (a limit of the file's size, a quota), by less, and in the end only by what is needed.

/// The length of an image file that grows, in bytes.
struct FileGrowth {
    /// Bytes that the file has.
    var length: UInt64
    /// Bytes that it must have for the writes that wait.
    private(set) var needed: UInt64 = 0
    /// How much longer than needed it is made; 0: only as long as needed.
    private var step: UInt64 = 64 << 20
    private let clusterSize: UInt64

    init(length: UInt64, clusterSize: UInt64) {
        self.length = length
        self.clusterSize = clusterSize
    }

    /// Whether the file grows by more than what is needed.
    var growsBySteps: Bool { step > 0 }

    /// Waiting writes need `length` bytes.
    mutating func need(_ length: UInt64) { needed = length }

    /// The length that the file is to be made next, where its clusters in use end at `end`; nil where it is long enough.
    /// Clusters were given back when the file was too short: `end` counts them already.
    func next(after end: UInt64) -> UInt64? {
        guard step > 0 else { return needed > length ? needed : nil }
        guard end + 16 * clusterSize > length else { return nil }
        return (max(end, length) + max(step, 16 * clusterSize) - 1) & ~(clusterSize - 1)
    }

    /// The system has refused the next length: the step becomes smaller. False: it is 0 already.
    mutating func refuseStep() -> Bool {
        guard step > 0 else { return false }
        step = step > 1 << 20 ? step >> 3 : 0
        return true
    }
}
