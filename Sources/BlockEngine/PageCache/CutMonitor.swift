// Another program may make a file shorter while it is in use. A write behind its new end would give the file its length
// back, and the bytes that were lost would read as zeros: the monitor keeps writes away from there.
import DiskTypes
import ImageChain

/// Tells whether the active image's file has become shorter.
struct CutMonitor {
    private let chain: ImageChain
    /// The file of the data.
    private let file: Int
    /// The file was cut: no write of this engine touches it any more.
    private(set) var isCut = false
    /// Writes that reach this position of the file, its end when last looked at, ask first.
    private var watchedEnd: UInt64

    init(_ chain: ImageChain) {
        self.chain = chain
        file = Int(chain.activeDataFile)
        let written = chain.files[file]
        watchedEnd = chain.isWritable && !written.isBlockDevice ? written.assuredLength : .max
    }

    /// Whether a write would hide that the file was cut: one that reaches the file's end gives it back its length. Any
    /// other leaves the file shorter than it was, which the next flush notices.
    @inline(__always) mutating func hidesCut(_ host: UInt64, _ length: Int) -> Bool {
        host &+ UInt64(truncatingIfNeeded: length) >= watchedEnd && isCutNow()
    }

    @inline(never) private mutating func isCutNow() -> Bool {
        watchedEnd = chain.files[file].assuredLength
        isCut = chain.isCut()
        return isCut
    }

    /// A write through the mapping met no page, or pages that the file does not have: the file may have been cut.
    @inline(never) mutating func suspect() { if chain.isCut() { isCut = true } }
}
