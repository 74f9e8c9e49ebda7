// `convert -O qcow2` from start to end. All that can be wrong with the options or the files is found before anything
// is overwritten.

public import DiskTypes
import ImageChain
import LinuxIO
import QCOW2
public import SystemPackage

extension ImageConvert {
    /// Converts `source` into a new qcow2 image `target`. As `raw`; `options.format` says what the image is like.
    public static func qcow2(
        from source: FilePath, to target: FilePath, _ options: ConvertOptions = ConvertOptions(),
        report: (Progress) -> Void = { _ in }, skipped: @Sendable @escaping (ImageError) -> Void = { _ in }
    ) throws(ImageError) {
        let chain = try ImageChain.open(path: source, options: options.source)
        if options.intoExisting { return try intoImage(chain, source, target, options, report, skipped) }
        let output: QCOW2Output
        do throws(ImageError) { output = try QCOW2Output(target, for: chain, options) } catch {
            throw error.named(target)
        }
        do throws(ImageError) {
            try output.write(chain, options, report, skipped)
        } catch {
            throw error.named(source).advising("\(target) is incomplete")
        }
    }
}

/// The files of an image that is about to be written, and what it will be like.
private struct QCOW2Output {
    let image: NewImage
    let target: TargetFile
    let data: TargetFile?
    let backing: ImageChain?
    /// Set when every cluster is mapped from the start: then the disk is one run of bytes.
    let layout: PreallocatedLayout?
    let header: [UInt8]

    init(_ path: FilePath, for chain: ImageChain, _ options: ConvertOptions) throws(ImageError) {
        guard options.format.size == nil else { throw .unsupported("the size is the source's: leave size= out") }
        image = try NewImage(options.format.image, size: chain.size)
        if options.compress {
            guard !image.isPreallocated else { throw .unsupported("compression and preallocation exclude each other") }
            guard !image.hasExternalData else { throw .unsupported("an external data file has no compressed clusters") }
        }
        guard image.options.backingName == nil || !image.isPreallocated else {
            throw .unsupported("a backing file and preallocation exclude each other")
        }
        var open = options.source
        open.format = nil
        backing = try ImageCreate.openBacking(image.options, of: path, .qcow2, open)
        // Also where it is not used: whether all this fits must be known before anything is overwritten.
        let fixed = try PreallocatedLayout(image)
        header = try fixed.header()
        layout = image.isPreallocated ? fixed : nil
        let needed = chain.files + (backing?.files ?? [])
        target = try TargetFile.open(path, lock: options.source.lock, needed: needed)
        do throws(ImageError) { data = try DataFile.open(image, of: path, needed: needed + [target.file]) } catch {
            target.abandon()
            throw error
        }
    }

    func write(
        _ chain: ImageChain, _ options: ConvertOptions, _ report: (ImageConvert.Progress) -> Void,
        _ skipped: @Sendable @escaping (ImageError) -> Void
    ) throws(ImageError) {
        try target.clear()
        try data?.clear()
        if let data { try DataSpace.give(data.file, from: HostOffset(0), image) }
        guard let layout, let start = layout.dataStart else {
            let job = ImageWriteJob(
                chain, image, backing: backing, file: target.file, data: data?.file, options, skipped)
            return try job.run(report)
        }
        try ImageCreate.writeTables(layout, target.file)
        if data == nil {
            try DataSpace.give(target.file, from: start, image, length: layout.dataLength)
        }
        let store = data?.file ?? target.file
        let place = CopyTarget(store, isZero: !store.isBlockDevice, start: start)
        let job = ConvertJob(chain, .file(place), options, skipped)
        try job.run(report)
        try job.requireWholeSource()
        if let data { try data.file.sync() }
        try ImageCreate.writeHeader(header, target.file)
    }
}
