// `info` is what people run on images they do not trust yet, so it opens the image's own file and nothing that the
// image refers to, unless it is asked to follow the chain.

public import DiskTypes
public import ImageChain
import LinuxIO
import QCOW2
public import SystemPackage

extension ImageInfo {
    /// What was found, and what could not be read without keeping the disk from being read: shown as not there.
    public struct Report: Sendable {
        /// The image that was asked for, then its backing files as far as they were read.
        public var images: [ImageInfo] = []
        /// What could not be read: bitmaps, a LUKS header.
        public var warnings: [ImageError] = []
    }

    /// Reads the image's own file. With `chain` the backing files too, as far as policy lets them be opened.
    public static func read(
        path: FilePath, options: OpenOptions = OpenOptions(), chain: Bool = false
    ) throws(ImageError) -> Report {
        var reader = InfoReader(path: path, options: options)
        var next: InfoReader.Place? = .init(path: path, format: options.format)
        while let place = next {
            guard reader.report.images.count < options.depthLimit else {
                throw ImageError(
                    .reference, "the backing chain is deeper than \(options.depthLimit) images", path: path)
            }
            do {
                let image = try reader.take(place)
                next = chain ? try reader.below(image, place) : nil
            } catch {
                throw error.named(place.path)
            }
        }
        return reader.report
    }
}

private struct InfoReader {
    struct Place {
        let path: FilePath
        let format: ImageFormat?
    }

    let options: OpenOptions
    let policy: ReferencePolicy
    var report = ImageInfo.Report()
    private var seen: Set<FileIdentity> = []

    init(path: FilePath, options: OpenOptions) {
        self.options = options
        policy = ReferencePolicy(
            image: path, allowed: options.allowedFolders, workingFolder: options.workingFolder)
    }

    /// Reads one image.
    mutating func take(_ place: Place) throws(ImageError) -> ImageInfo {
        let file = try HostFile.open(path: place.path, direct: .never)
        let isTop = report.images.isEmpty
        if !isTop { try policy.confirm(descriptor: file.fd, role: "backing file") }
        guard seen.insert(file.identity).inserted else {
            throw ImageError(.reference, "the backing chain comes back to this file: a loop")
        }
        if place.format == nil, let container = try container(file, place) {
            report.images.append(container)
            return container
        }
        let role = isTop ? nil : "backing file"
        let format = if let known = place.format { known } else { try ImageFormat.probe(file, role: role) }
        if options.lock { try ImageLock.take(isTop || format == .qcow2 ? .readOnlyImage : .rawBacking, on: file) }
        let info = try format == .qcow2 ? qcow2(file, place) : raw(file, place)
        report.images.append(info)
        return info
    }

    /// Where the backing file is. Judged only when it is to be followed: to name a forbidden file is no crime.
    func below(_ image: ImageInfo, _ place: Place) throws(ImageError) -> Place? {
        guard let reference = image.backingFilename else { return nil }
        let found = try policy.resolveBacking(reference, format: image.backingFormat, from: place.path)
        return Place(path: found.path, format: found.format)
    }

    private func raw(_ file: HostFile, _ place: Place) throws(ImageError) -> ImageInfo {
        let info = try FileInfo(file, path: place.path)
        return ImageInfo(filename: place.path, format: "raw", virtualSize: info.length, file: info)
    }

    /// A LUKS container, of which only the header is read; nil for other files.
    private func container(_ file: HostFile, _ place: Place) throws(ImageError) -> ImageInfo? {
        let bytes = try file.read(at: HostOffset(0), count: LUKSHeader.bytes)
        guard LUKSHeader.isVersion1(bytes), bytes.count == LUKSHeader.bytes else { return nil }
        if options.lock { try ImageLock.take(.readOnlyImage, on: file) }
        let header = try LUKSHeader(BigEndianBytes(bytes, base: HostOffset(0)))
        let info = try FileInfo(file, path: place.path)
        guard header.payloadOffset <= info.length else {
            throw .malformed("the LUKS container ends before its payload", advice: "the file is truncated or damaged")
        }
        var image = ImageInfo(
            filename: place.path, format: "luks", virtualSize: info.length - header.payloadOffset, file: info)
        image.luks = header
        return image
    }

    private mutating func qcow2(_ file: HostFile, _ place: Place) throws(ImageError) -> ImageInfo {
        let image = try QCOW2Image(reading: file)
        let header = image.header
        var info = ImageInfo(
            filename: place.path, format: "qcow2", virtualSize: header.diskSize,
            file: try FileInfo(file, path: place.path))
        info.clusterSize = header.clusterSize
        info.isDirty = header.incompatible.contains(.dirty)
        info.snapshots = try image.snapshots.get()
        info.specific = QCOW2Info(
            version: header.version, compression: header.compression.name, refcountBits: header.refcountBits,
            lazyRefcounts: header.compatible.contains(.lazyRefcounts),
            isCorrupt: header.incompatible.contains(.corrupt), extendedL2: header.hasSubclusters,
            dataFile: image.extensions.externalDataFile,
            dataFileRaw: header.hasExternalData ? header.autoclear.contains(.rawExternalData) : nil,
            bitmaps: keep(image.bitmaps, of: place) ?? [], encryption: encryption(image, file, place))
        info.backingFilename = image.extensions.backingName
        info.fullBackingFilename = info.backingFilename.map { BackingName.full($0, in: place.path) }
        info.backingFormat = info.backingFilename == nil ? nil : image.extensions.backingFormat
        return info
    }

    private mutating func encryption(_ image: QCOW2Image, _ file: HostFile, _ place: Place) -> EncryptionInfo? {
        switch image.header.encryption {
        case .none: return nil
        case .aes: return .aes
        case .luks:
            let header = Result { () throws(ImageError) in
                guard let area = image.extensions.encryptionHeader else {
                    throw ImageError.malformed("the image says it is encrypted with LUKS but has no LUKS header")
                }
                let bytes = try file.readAll(at: area.offset, count: LUKSHeader.bytes, what: "the LUKS header")
                return try LUKSHeader(BigEndianBytes(bytes, base: area.offset))
            }
            return .luks(keep(header, of: place))
        }
    }

    /// The value, or nil and a note for the report.
    private mutating func keep<T>(_ result: Result<T, ImageError>, of place: Place) -> T? {
        switch result {
        case .success(let value): return value
        case .failure(let error):
            report.warnings.append(error.named(place.path))
            return nil
        }
    }
}
