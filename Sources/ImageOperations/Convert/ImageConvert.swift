// Why this file exists: `convert -O raw` from start to end. Workers share a list of pieces and a target; what one of
// them cannot do stops all, and the first error in the order of the disk is the one that is told.

public import DiskTypes
import ImageChain
import Synchronization

/// Writes the disk of an image into a raw file or a block device.
public enum ImageConvert {
    /// What a conversion tells while it runs. Called on the caller's thread, between two pieces.
    public struct Progress: Sendable {
        public let done: UInt64
        public let total: UInt64
    }

    /// Converts `source` into `target`. `report` hears how far it is, `skipped` of each place that was salvaged.
    /// An error leaves the target as far as it came.
    public static func raw(
        from source: String, to target: String, _ options: ConvertOptions = ConvertOptions(),
        report: (Progress) -> Void = { _ in }, skipped: @Sendable @escaping (ImageError) -> Void = { _ in }
    ) throws(ImageError) {
        let chain = try ImageChain.open(path: source, options: options.source)
        let output = try CopyTarget.open(target, for: chain, options)
        do {
            let job = ConvertJob(chain, output, options, skipped)
            try job.run(report)
            if options.flush { try output.file.sync() }
        } catch {
            throw error.named(source).advising("\(printable(target)) is incomplete")
        }
    }
}

extension ImageError {
    /// The same error with one more thing to know.
    func advising(_ more: String) -> ImageError {
        ImageError(kind, what, at: at, advice: advice.map { "\($0); \(more)" } ?? more, path: path)
    }
}

/// What the workers of one conversion share.
final class ConvertJob: Sendable {
    /// Reads that one worker has in flight, and bytes of each.
    static let depth = 4
    static let pieceSize: UInt64 = 1 << 20

    let chain: ImageChain
    let target: CopyTarget
    let options: ConvertOptions
    let pieceSize: Int
    let skipped: @Sendable (ImageError) -> Void
    private let source: Mutex<CopySource>
    private let failure = Mutex<(place: UInt64, error: ImageError)?>(nil)

    init(
        _ chain: ImageChain, _ target: CopyTarget, _ options: ConvertOptions,
        _ skipped: @Sendable @escaping (ImageError) -> Void
    ) {
        self.chain = chain
        self.target = target
        self.options = options
        self.skipped = skipped
        let source = CopySource(
            chain, tellsZeros: !target.isZero, readsZeros: options.sparse == 0, salvages: options.salvage,
            pieceSize: Self.pieceSize)
        pieceSize = Int(source.pieceSize)
        self.source = Mutex(source)
    }

    /// Runs until everything is written or something failed. The calling thread is the first worker.
    func run(_ report: (ImageConvert.Progress) -> Void) throws(ImageError) {
        let count = max(1, min(options.workers, ConvertOptions.workerLimit))
        Workers.run(count, "qblk-convert", { self.work { _ in } }, first: { work(report) })
        if let failure = failure.withLock({ $0 }) { throw failure.error }
    }

    private func work(_ report: (ImageConvert.Progress) -> Void) {
        do throws(ImageError) {
            let worker = try ConvertWorker(self)
            worker.run { report(.init(done: $0, total: self.chain.size)) }
        } catch {
            fail(at: 0, error)
        }
    }

    /// The next piece; nil when there is none or the work has to end.
    func nextPiece() -> (CopySource.Piece, cursor: UInt64)? {
        if failure.withLock({ $0 != nil }) { return nil }
        let taken = source.withLock { source -> Result<(CopySource.Piece, UInt64)?, ImageError> in
            do throws(ImageError) {
                try options.cancel.check()
                guard let piece = try source.next() else { return .success(nil) }
                return .success((piece, source.cursor))
            } catch {
                fail(at: source.cursor, error)
                return .success(nil)
            }
        }
        return (try? taken.get()) ?? nil
    }

    /// Stops the work. Of several failures the one nearest to the disk's start is told.
    func fail(at place: UInt64, _ error: ImageError) {
        failure.withLock { known in
            if known.map({ place < $0.place }) ?? true { known = (place, error) }
        }
    }
}
