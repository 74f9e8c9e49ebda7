// From a path to an opened chain. Files and headers first, from the top down, each reference judged by the policy
// before it is followed; maps last, when it is known how many share the memory for L2 tables.

public import DiskTypes
import LinuxIO
public import SystemPackage
import QCOW2

extension ImageChain {
    /// Opens `path` and its backing chain, with QEMU-compatible locks. Nothing is written but the last sector of a
    /// writable raw file that ends inside one.
    public static func open(path: FilePath, options: OpenOptions = OpenOptions()) throws(ImageError) -> ImageChain {
        var opener = ChainOpener(path: path, options: options)
        return try opener.run()
    }
}

/// A layer on its way: its file is open and its header read.
struct OpenedLayer {
    let path: FilePath
    let format: ImageFormat
    let image: QCOW2Image?
    let snapshot: Snapshot?
    let metadataFile: Int
    let dataFile: Int
}

struct ChainOpener {
    let path: FilePath
    let options: OpenOptions
    let policy: ReferencePolicy
    var files: [HostFile] = []
    var layers: [OpenedLayer] = []

    init(path: FilePath, options: OpenOptions) {
        self.path = path
        self.options = options
        policy = ReferencePolicy(
            image: path, allowed: options.allowedFolders, workingFolder: options.workingFolder)
    }

    mutating func run() throws(ImageError) -> ImageChain {
        var next: (path: FilePath, format: ImageFormat?)? = (path, options.format)
        while let layer = next {
            guard layers.count < options.depthLimit else {
                throw ImageError(
                    .reference, "the backing chain is deeper than \(options.depthLimit) images",
                    advice: "flatten it with qemu-img convert"
                ).named(path)
            }
            do throws(ImageError) { next = try openLayer(layer.path, format: layer.format) } catch {
                throw error.named(layer.path)
            }
        }
        if let known = options.files, known.count != files.count {
            throw ImageError(.reference, "the image has fewer files than when it was opened first", path: path)
        }
        if options.writable { try completeLastSector() }
        let built = try buildMaps()
        return ImageChain(
            layers: built, files: files, isWritable: options.writable, writer: try makeWriter(built))
    }

    /// What allocates in the active image; raw images need none.
    private func makeWriter(_ built: [ImageLayer]) throws(ImageError) -> ImageWriter? {
        guard options.writable, let top = built.first, let image = top.image, case .qcow2(let map) = top.map else {
            return nil
        }
        let file = files[Int(top.metadataFile)]
        do throws(ImageError) {
            let plan = try QCOW2Writer(image, map: map, storage: file, hasBacking: built.count > 1)
            let data = top.dataFile == top.metadataFile ? nil : files[Int(top.dataFile)]
            try refuseTruncated(plan, image.header, file, data)
            return try ImageWriter(plan: plan, storage: file, data: data)
        } catch { throw error.named(path) }
    }

    /// Refuses a file that has lost bytes which the mapping names: were it to grow, they would read as zeros from then on.
    /// The walk through the tables is made only where something may be missing: clusters behind the file's end count as used,
    /// the file ends inside a cluster, or an external data file is shorter than the disk. All three may also be what a crash,
    /// QEMU's preallocation or a sparse file has left.
    private func refuseTruncated(_ plan: QCOW2Writer, _ header: Header, _ file: HostFile, _ data: HostFile?)
        throws(ImageError)
    {
        let endsInsideCluster = !file.isBlockDevice && file.length & (header.clusterSize - 1) != 0
        let shortData = data.flatMap { $0.length < header.diskSize ? $0 : nil }
        guard plan.hasMissingClusters || endsInsideCluster || shortData != nil else { return }
        var options = CheckOptions()
        options.dataLength = data?.length
        let report = try ImageCheck.check(file, options)
        let advice = "open it read-only (-r), or copy what is left of it with qblk convert --salvage"
        if report.isTruncated {
            throw .malformed(
                "the image is truncated: it uses clusters behind the end of its file, and is not written to",
                advice: advice)
        }
        if report.isDataTruncated, let shortData {
            throw ImageError(
                .malformed,
                "the data file is truncated: it ends at \(shortData.length), and the disk has data behind that",
                advice: advice, path: shortData.path)
        }
    }

    /// Opens one layer and says which comes below it.
    private mutating func openLayer(
        _ name: FilePath, format wanted: ImageFormat?
    ) throws(ImageError) -> (path: FilePath, format: ImageFormat?)? {
        let isTop = layers.isEmpty
        let writable = isTop && options.writable
        let file = try open(name, role: isTop ? nil : "backing file", writable: writable)
        let format =
            if let wanted { wanted } else { try ImageFormat.probe(file, role: isTop ? nil : "backing file") }
        try lock(file, writable ? .writableImage : isTop || format == .qcow2 ? .readOnlyImage : .rawBacking)
        let metadataFile = files.count
        files.append(file)
        guard format == .qcow2 else {
            guard options.snapshot == nil || !isTop else {
                throw ImageError(.notFound, "a raw image has no snapshots")
            }
            layers.append(
                OpenedLayer(
                    path: name, format: .raw, image: nil, snapshot: nil, metadataFile: metadataFile,
                    dataFile: metadataFile))
            return nil
        }
        let image = try QCOW2Image(reading: file, listing: isTop, size: isTop ? options.diskSize : nil)
        try image.requireReadable()
        if writable { try image.requireWritable() }
        guard !writable || options.snapshot == nil else {
            throw ImageError(.unsupported, "a snapshot cannot be written to", advice: "open it read-only (-r)")
        }
        let snapshot: Snapshot? = if isTop, let wanted = options.snapshot { try image.snapshot(wanted) } else { nil }
        let dataFile = try openDataFile(image, from: name, writable: writable) ?? metadataFile
        layers.append(
            OpenedLayer(
                path: name, format: .qcow2, image: image, snapshot: snapshot, metadataFile: metadataFile,
                dataFile: dataFile))
        return try backing(of: image, from: name)
    }

    private func backing(
        of image: QCOW2Image, from name: FilePath
    ) throws(ImageError) -> (path: FilePath, format: ImageFormat?)? {
        guard let reference = image.extensions.backingName else { return nil }
        if let next = try known(role: "backing file") {
            return (Self.shownPath(next), try Self.format(of: next.known))
        }
        return try policy.resolveBacking(reference, format: image.extensions.backingFormat, from: name)
    }

    /// The index of the external data file, or nil where data is in the image itself.
    private mutating func openDataFile(
        _ image: QCOW2Image, from name: FilePath, writable: Bool
    ) throws(ImageError) -> Int? {
        guard image.header.hasExternalData else { return nil }
        guard let reference = image.extensions.externalDataFile else {
            throw .malformed("the image needs an external data file but does not name it")
        }
        let place: FilePath
        if let next = try known(role: "data file") {
            place = Self.shownPath(next)
        } else {
            place = try policy.resolve(reference, from: name, role: "data file").path
            try policy.refuseTwoDataFiles(reference, opened: place)
        }
        let file = try open(place, role: "data file", writable: writable)
        try lock(file, writable ? .writableImage : .readOnlyImage)
        files.append(file)
        return files.count - 1
    }

    /// Opens a file for the chain; `role` is nil for the image the user named.
    private func open(_ name: FilePath, role: String?, writable: Bool) throws(ImageError) -> HostFile {
        if let known = try known(role: role ?? "image") { return try open(known, name, writable: writable) }
        let file: HostFile
        do throws(ImageError) { file = try openFile(name, writable: writable) } catch {
            guard let role else { throw error }
            throw ImageError(
                .reference, "the \(role) \"\(name)\" \(error.what)", advice: error.advice, number: error.number)
        }
        guard role != nil || options.identity.map({ $0 == file.identity }) ?? true else {
            throw ImageError(.reference, "another file has taken this name meanwhile", advice: "try again")
        }
        if let role {
            try policy.confirm(descriptor: file.fd, role: role)
            guard !files.contains(where: { $0.identity == file.identity }) else {
                throw ImageError(
                    .reference, "the \(role) \"\(name)\" is in the chain already: a loop",
                    advice: "rebase the image onto another file")
            }
        }
        return file
    }

    private func openFile(_ name: FilePath, writable: Bool) throws(ImageError) -> HostFile {
        let file = try HostFile.open(path: name, writable: writable, direct: options.direct ? .ifPossible : .never)
        guard writable, file.directFD >= 0, file.directOffsetAlignment > options.blockSize else { return file }
        return try HostFile.open(path: name, writable: writable, direct: .never)
    }

    // MARK: files that are open already

    /// The next file by descriptor; nil where files are opened by name.
    private func known(role: String) throws(ImageError) -> OpenedFile? {
        guard let known = options.files else { return nil }
        guard files.count < known.count else {
            throw ImageError(.reference, "the image names a \(role) that it had not when it was opened first")
        }
        return known[files.count]
    }

    private func open(_ opened: OpenedFile, _ name: FilePath, writable: Bool) throws(ImageError) -> HostFile {
        func attempt(_ direct: HostFile.DirectMode) throws(ImageError) -> HostFile {
            switch options.filesUse {
            case .reopen: try HostFile.reopen(opened.descriptor, path: name, writable: writable, direct: direct)
            case .share: try HostFile.share(opened.descriptor, path: name, writable: writable, direct: direct)
            }
        }
        var file = try attempt(options.direct ? .ifPossible : .never)
        if writable, file.directFD >= 0, file.directOffsetAlignment > options.blockSize { file = try attempt(.never) }
        guard file.identity == opened.known.identity else {
            throw ImageError(.reference, "is another file than when it was opened first", path: name)
        }
        guard file.length >= opened.known.length ?? 0 else {
            throw ImageError(.reference, "is shorter than when it was opened first", path: name)
        }
        return file
    }

    /// Which format an open backing file has. What it was when the chain was opened first is never guessed anew.
    private static func format(of known: KnownFile) throws(ImageError) -> ImageFormat {
        guard let format = known.format else {
            throw ImageError(
                .reference, "the image has a backing file where a data file was when it was opened first")
        }
        return format
    }

    /// The name that the file has now, for messages.
    private static func shownPath(_ file: OpenedFile) -> FilePath {
        FilePath("/proc/self/fd/\(file.descriptor)").linkTarget() ?? "an open file"
    }

    /// The guest's disk has whole sectors; so has a raw file that is written, as with QEMU after the first write there.
    private func completeLastSector() throws(ImageError) {
        guard let top = layers.first, top.format == .raw else { return }
        let file = files[top.dataFile]
        guard !file.isBlockDevice, file.length % 512 != 0 else { return }
        try file.truncate(to: (file.length + 511) & ~511)
    }

    private func lock(_ file: HostFile, _ mode: LockMode) throws(ImageError) {
        if options.lock {
            try ImageLock.take(mode, on: file, joining: options.joinsLocks)
            // Its last writer may have changed its length between the opening and the lock.
            if !options.joinsLocks { _ = try file.currentLength() }
        }
        if file.isWritable, options.takesWriterLock { try WriterLock.take(on: file) }
    }
}
