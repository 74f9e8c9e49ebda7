// What the workers share that write a qcow2 image, and the order of its end: all data and tables, then the disk has
// them, then the header. A conversion that is killed leaves a file that is no image.

import DiskTypes
import ImageChain
import LinuxIO
import QCOW2

/// A conversion into a new qcow2 image whose clusters are placed as they come.
final class ImageWriteJob: Sendable {
    /// Pieces that one worker has in its hands. A read out of memory is over when it is asked for; to read ahead of it
    /// only pushes out of the processor's cache what is about to be written.
    let depth: Int
    /// Small enough that a worker's pieces stay in its processor's cache.
    private static let pieceSize: UInt64 = 512 << 10

    let chain: ImageChain
    let image: NewImage
    /// What shows through where the new image has nothing.
    let backing: ImageChain?
    let file: HostFile
    /// Where plain clusters go: the file itself, or the data file.
    let data: CopyTarget
    let options: ConvertOptions
    let skipped: @Sendable (ImageError) -> Void
    let queue: PieceQueue
    let places: PlacementQueue
    let pieceSize: Int

    init(
        _ chain: ImageChain, _ image: NewImage, backing: ImageChain?, file: HostFile, data: HostFile?,
        _ options: ConvertOptions, _ skipped: @Sendable @escaping (ImageError) -> Void
    ) {
        self.chain = chain
        self.image = image
        self.backing = backing
        self.file = file
        let store = data ?? file
        self.data = CopyTarget(store, isZero: !store.isBlockDevice)
        self.options = options
        self.skipped = skipped
        // Version 2 has no zero clusters: zeros that hide a backing file's bytes are data.
        let readsZeros = options.sparse == 0 || backing != nil && image.options.version == 2
        let source = CopySource(
            chain, tellsZeros: backing != nil, readsZeros: readsZeros, salvages: options.salvage,
            pieceSize: Self.pieceSize, unit: image.clusterSize)
        pieceSize = Int(source.pieceSize)
        depth = !options.compress && chain.files.allSatisfy(\.isTmpfs) ? 2 : 4
        queue = PieceQueue(source, options.cancel, bytesPerSecond: options.bytesPerSecond)
        places = PlacementQueue(image)
    }

    func run(_ report: (ImageConvert.Progress) -> Void) throws(ImageError) {
        Workers.run(options.threads, "qblk-convert", { self.work { _ in } }, first: { work(report) })
        let rest = try places.finish(try queue.check())
        if !options.salvage { try chain.requireWholeFiles() }
        try backing?.requireWholeFiles()
        try write(rest.tables)
        if !file.isBlockDevice, file.length < rest.fileLength { try file.truncate(to: rest.fileLength) }
        if data.file !== file { try data.file.sync() }
        try ImageCreate.writeHeader(rest.header, file)
    }

    private func work(_ report: (ImageConvert.Progress) -> Void) {
        do throws(ImageError) {
            let worker = try PlacementWriter(self)
            worker.run { report(.init(done: $0, total: chain.size)) }
        } catch {
            queue.fail(at: 0, error)
        }
    }

    /// Writes tables, in few pieces where they lie side by side.
    func write(_ tables: [TableWrite]) throws(ImageError) {
        var sink = TableSink(file, clusterSize: image.clusterSize)
        for table in tables { try sink.write(table) }
        try sink.flush()
    }
}
