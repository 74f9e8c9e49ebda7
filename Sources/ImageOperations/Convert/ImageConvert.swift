// `convert -O raw` from start to end. Workers share a list of pieces and a target.

import BlockEngine
public import DiskTypes
import ImageChain
public import SystemPackage
import LinuxIO

/// Writes the disk of an image into another file or a block device.
public enum ImageConvert {
    /// What a conversion tells while it runs. Called on the caller's thread, between two pieces.
    public struct Progress: Sendable {
        /// Bytes of the disk that have been dealt with.
        public let done: UInt64
        /// Bytes of the disk.
        public let total: UInt64
    }

    /// Converts `source` into `target`. `report` hears how far it is, `skipped` of each place that was salvaged.
    /// An error leaves the target as far as it came.
    public static func raw(
        from source: FilePath, to target: FilePath, _ options: ConvertOptions = ConvertOptions(),
        report: (Progress) -> Void = { _ in }, skipped: @Sendable @escaping (ImageError) -> Void = { _ in }
    ) throws(ImageError) {
        let chain = try ImageChain.open(path: source, options: options.source)
        let output = try CopyTarget.open(target, for: chain, options)
        do {
            let job = ConvertJob(chain, .file(output), options, skipped)
            try job.run(report)
            try job.requireWholeSource()
            if options.flush { try output.file.sync() }
        } catch {
            throw error.named(source).advising("\(target) is incomplete")
        }
    }
}

extension ImageError {
    /// The same error with one more thing to know.
    func advising(_ more: String) -> ImageError {
        ImageError(kind, what, at: at, advice: advice.map { "\($0); \(more)" } ?? more, path: path)
    }
}

/// Where a conversion writes.
enum ConvertTarget: Sendable {
    case file(CopyTarget)
    /// An image that is there, open for writing.
    case image(ImageChain, isZero: Bool)

    var isZero: Bool {
        switch self {
        case .file(let file): file.isZero
        case .image(_, let isZero): isZero
        }
    }

    /// A worker's own way in.
    func lane() throws(ImageError) -> any TargetLane {
        switch self {
        case .file(let file): file
        case .image(let chain, let isZero):
            ImageLane(writer: try ChainReader(chain, depth: 1), isZero: isZero, path: chain.layers[0].path)
        }
    }
}

/// What the workers of one conversion to plain bytes share.
final class ConvertJob: Sendable {
    /// Reads that one worker has in flight, and bytes of each.
    static let depth = 4
    static let pieceSize: UInt64 = 1 << 20

    let chain: ImageChain
    let target: ConvertTarget
    let options: ConvertOptions
    let pieceSize: Int
    let skipped: @Sendable (ImageError) -> Void
    let queue: PieceQueue

    init(
        _ chain: ImageChain, _ target: ConvertTarget, _ options: ConvertOptions,
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
        queue = PieceQueue(source, options.cancel, bytesPerSecond: options.bytesPerSecond)
    }

    /// Runs until everything is written or something failed. The calling thread is the first worker.
    func run(_ report: (ImageConvert.Progress) -> Void) throws(ImageError) {
        Workers.run(options.threads, "qblk-convert", { self.work { _ in } }, first: { work(report) })
        try queue.check()
    }

    /// After the last read: throws when the source was cut meanwhile.
    func requireWholeSource() throws(ImageError) { if !options.salvage { try chain.requireWholeFiles() } }

    private func work(_ report: (ImageConvert.Progress) -> Void) {
        do throws(ImageError) {
            let worker = try ConvertWorker(self)
            worker.run { report(.init(done: $0, total: self.chain.size)) }
        } catch {
            queue.fail(at: 0, error)
        }
    }
}
