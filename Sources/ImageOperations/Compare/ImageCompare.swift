// `compare` from start to end: what people run to trust a conversion. Workers share the list of pieces; of all that
// they find, what lies nearest to the disk's start is the answer, as if one had gone through alone.

import DiskTypes
import ImageChain
import Synchronization
public import SystemPackage
import LinuxIO

/// Compares the disks of two images.
public enum ImageCompare {
    /// How far a comparison is. Told on the caller's thread, between two pieces.
    public struct Progress: Sendable {
        /// Bytes of the disk that have been compared.
        public let done: UInt64
        /// Bytes there are to compare.
        public let total: UInt64
    }

    /// Compares `first` with `second` and stops at the difference that lies nearest to the disk's start.
    public static func run(
        _ first: FilePath, _ second: FilePath, _ options: CompareOptions = CompareOptions(),
        report: (Progress) -> Void = { _ in }
    ) throws(CompareFailure) -> Comparison {
        let a = try open(first, options.first)
        let b = try open(second, options.second)
        let sizesDiffer = a.size != b.size
        if options.strict, sizesDiffer { return Comparison(verdict: .sizesDiffer) }
        let job = CompareJob(a, b, options)
        let verdict = try job.run(report)
        var result = Comparison(verdict: verdict)
        // Said only when the part that both have was gone through without finding anything.
        switch verdict {
        case .identical: result.hasOtherSize = sizesDiffer
        case .contentDiffers(let place): result.hasOtherSize = sizesDiffer && place >= min(a.size, b.size)
        case .sizesDiffer, .statusDiffers: break
        }
        return result
    }

    private static func open(_ path: FilePath, _ options: OpenOptions) throws(CompareFailure) -> ImageChain {
        do {
            return try ImageChain.open(path: path, options: options)
        } catch {
            throw CompareFailure(step: .opening, error: error.named(path))
        }
    }
}

/// What the workers of one comparison share.
final class CompareJob: Sendable {
    /// Pieces that one worker has in flight, and bytes of each.
    static let depth = 4
    static let pieceSize: UInt64 = 1 << 20

    private enum Finding {
        case verdict(Comparison.Verdict)
        case failure(CompareFailure)
    }

    let first: ImageChain
    let second: ImageChain
    let pieceSize: Int
    private let options: CompareOptions
    private let source: Mutex<PairSource>
    private let total: UInt64
    private let finding = Mutex<(place: UInt64, what: Finding)?>(nil)

    init(_ first: ImageChain, _ second: ImageChain, _ options: CompareOptions) {
        self.first = first
        self.second = second
        self.options = options
        let source = PairSource(first, second, strict: options.strict, pieceSize: Self.pieceSize)
        pieceSize = Int(source.pieceSize)
        total = source.end
        self.source = Mutex(source)
    }

    /// Runs until all is compared or something is found. The calling thread is the first worker.
    func run(_ report: (ImageCompare.Progress) -> Void) throws(CompareFailure) -> Comparison.Verdict {
        let count = max(1, min(options.workers, ConvertOptions.workerLimit))
        Workers.run(count, "qblk-compare", { self.work { _ in } }, first: { work(report) })
        let what = finding.withLock({ $0 })?.what
        if case .failure(let failure) = what { throw failure }
        // Bytes that went missing while they were compared are no difference and no equality.
        do throws(ImageError) {
            try first.requireWholeFiles()
            try second.requireWholeFiles()
        } catch { throw CompareFailure(step: .reading, error: error) }
        guard case .verdict(let verdict) = what else { return .identical }
        return verdict
    }

    private func work(_ report: (ImageCompare.Progress) -> Void) {
        do throws(ImageError) {
            let worker = try CompareWorker(self)
            worker.run { report(.init(done: $0, total: total)) }
        } catch {
            found(.reading, error, at: 0)
        }
    }

    /// The next piece; nil when there is none, or nothing behind what was found matters any more.
    func nextPiece() -> PairSource.Piece? {
        source.withLock { source in
            // No worker is handed a piece once a difference is found: what is in flight lies before it or does not matter.
            guard finding.withLock({ $0 == nil }) else { return nil }
            do throws(ImageError) {
                try options.cancel.check()
                switch try source.next() {
                case .none: return nil
                case .piece(let piece): return piece
                case .strictDifference(let place):
                    found(.statusDiffers(at: place), at: place)
                    return nil
                }
            } catch {
                found(.mapping, error, at: source.cursor)
                return nil
            }
        }
    }

    func found(_ verdict: Comparison.Verdict, at place: UInt64) { found(.verdict(verdict), at: place) }

    func found(_ step: CompareFailure.Step, _ error: ImageError, at place: UInt64) {
        found(.failure(CompareFailure(step: step, error: error.named(first.layers[0].path))), at: place)
    }

    private func found(_ what: Finding, at place: UInt64) {
        finding.withLock { known in
            if known.map({ place < $0.place }) ?? true { known = (place, what) }
        }
    }
}
