// Why this file exists: `info` is what people run on images they do not trust yet, so it opens the image's own file
// and nothing that the image refers to, unless it is asked to follow the chain.

public import DiskTypes
public import ImageChain
import LinuxIO
import QCOW2

extension ImageInfo {
    /// What was found, and what could not be read although the image itself could: it is shown and then reported.
    public struct Report: Sendable {
        public var images: [ImageInfo] = []
        public var problems: [ImageError] = []
    }

    /// Reads the image's own file. With `chain` the backing files too, as far as policy lets them be opened.
    public static func read(
        path: String, options: OpenOptions = OpenOptions(), chain: Bool = false
    ) throws(ImageError) -> Report {
        var reader = InfoReader(path: path, options: options)
        var next: InfoReader.Place? = .init(shown: path, path: path, format: options.format)
        while let place = next {
            guard reader.report.images.count < options.depthLimit else {
                throw ImageError(.reference, "the backing chain is deeper than \(options.depthLimit) images", path: path)
            }
            do {
                let below = try reader.take(place)
                next = chain ? below : nil
            } catch {
                throw error.named(place.shown)
            }
        }
        return reader.report
    }
}

private struct InfoReader {
    /// Where the next image is: the name QEMU would show, and the one to open.
    struct Place {
        let shown: String
        let path: String
        let format: ImageFormat?
    }

    let options: OpenOptions
    let policy: ReferencePolicy
    var report = ImageInfo.Report()
    private var seen: Set<FileIdentity> = []

    init(path: String, options: OpenOptions) {
        self.options = options
        policy = ReferencePolicy(image: path, allowed: options.allowedFolders)
    }

    /// Reads one image and says where its backing file is.
    mutating func take(_ place: Place) throws(ImageError) -> Place? {
        let file = try HostFile.open(path: place.path, direct: .never)
        let isTop = report.images.isEmpty
        if !isTop { try policy.confirm(descriptor: file.fd, role: "backing file") }
        guard seen.insert(file.identity).inserted else {
            throw ImageError(.reference, "the backing chain comes back to this file: a loop")
        }
        let format = try place.format ?? ImageFormat.probe(file)
        if options.lock { try ImageLock.take(isTop || format == .qcow2 ? .readOnlyImage : .rawBacking, on: file) }
        guard format == .qcow2 else {
            report.images.append(try raw(file, place))
            return nil
        }
        return try qcow2(file, place)
    }

    private func raw(_ file: HostFile, _ place: Place) throws(ImageError) -> ImageInfo {
        let info = try FileInfo(file, shown: place.shown)
        return ImageInfo(filename: place.shown, format: "raw", virtualSize: info.length, file: info)
    }

    private mutating func qcow2(_ file: HostFile, _ place: Place) throws(ImageError) -> Place? {
        let image = try QCOW2Image(reading: file)
        let header = image.header
        var info = ImageInfo(
            filename: place.shown, format: "qcow2", virtualSize: header.diskSize, file: try FileInfo(file, shown: place.shown))
        info.clusterSize = header.clusterSize
        info.isDirty = header.incompatible.contains(.dirty)
        info.snapshots = keep(image.snapshots, of: place) ?? []
        info.specific = QCOW2Info(
            version: header.version, compression: header.compression.name, refcountBits: header.refcountBits,
            lazyRefcounts: header.compatible.contains(.lazyRefcounts),
            isCorrupt: header.incompatible.contains(.corrupt), extendedL2: header.hasSubclusters,
            dataFile: image.extensions.externalDataFile,
            dataFileRaw: header.hasExternalData ? header.autoclear.contains(.rawExternalData) : nil,
            bitmaps: keep(image.bitmaps, of: place) ?? [], encryption: encryption(image, file, place))
        defer { report.images.append(info) }
        guard let reference = image.extensions.backingName else { return nil }
        info.backingFilename = reference
        info.fullBackingFilename = BackingName.full(reference, in: place.shown)
        info.backingFormat = image.extensions.backingFormat
        // Judged only where it will be followed: to name a forbidden file is no crime.
        return Place(
            shown: BackingName.full(reference, in: place.shown),
            path: (try? policy.resolve(reference, from: place.path, role: "backing file")) ?? "", format: nil)
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
            report.problems.append(error.named(place.shown))
            return nil
        }
    }
}
