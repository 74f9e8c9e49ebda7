// `create` from start to end: everything that can be wrong is found before a byte is changed, and the header is
// written last, so that what a killed `create` leaves is no image.

public import DiskTypes
public import ImageChain
import LinuxIO
import QCOW2
public import SystemPackage

/// A new image that is about to be made: judged, but nothing is written yet.
public struct ImageCreate: Sendable {
    /// What the user asked for.
    public struct Request: Sendable {
        /// Where the image is to be.
        public var path: FilePath
        /// `qcow2` or `raw`.
        public var format: ImageFormat
        /// What `-o`, `-b` and `-F` say.
        public var options = FormatOptions()
        /// Bytes of the disk; nil: as `size=` says, or the backing file has.
        public var size: UInt64?
        /// Do not look at the backing file.
        public var isUnsafe = false
        /// Where files that the backing file refers to may lie.
        public var allowedFolders: [FilePath] = []

        /// An image with the format's defaults.
        public init(path: FilePath, format: ImageFormat) {
            self.path = path
            self.format = format
        }
    }

    /// qemu-img's line about it.
    public let summary: String
    private let request: Request
    private let image: NewImage
    private let backing: ImageChain?

    /// Looks at everything; an error leaves no trace.
    public init(_ request: Request) throws(ImageError) {
        self.request = request
        do throws(ImageError) {
            backing = try Self.openBacking(request)
            let size = try Self.size(request, backing)
            summary = request.options.summary(request.path, request.format, size: size)
            image = try NewImage(request.options.image, size: size)
            if request.format == .raw, request.options.image.preallocation == .metadata {
                throw .unsupported("a raw image has no metadata to preallocate")
            }
        } catch {
            throw error.named(request.path)
        }
    }

    private static func size(_ request: Request, _ backing: ImageChain?) throws(ImageError) -> UInt64 {
        if request.size != nil, request.options.size != nil { throw .unsupported("the size is given twice") }
        guard let size = request.size ?? request.options.size ?? backing?.size else {
            throw .unsupported("a new image needs a size")
        }
        guard size <= Limits.virtualSize else {
            throw .unsupported("the size must lie between 0 and \(Limits.virtualSize)")
        }
        return size
    }

    /// The backing chain, opened as a reader would: what cannot be opened now cannot be later.
    private static func openBacking(_ request: Request) throws(ImageError) -> ImageChain? {
        var open = OpenOptions()
        open.allowedFolders = request.allowedFolders
        return try openBacking(
            request.options.image, of: request.path, request.format, open, isUnsafe: request.isUnsafe)
    }

    /// The same for a conversion's output. `isUnsafe`: whether -u was given; nil for a verb that has no -u.
    static func openBacking(
        _ options: NewImageOptions, of path: FilePath, _ format: ImageFormat, _ open: OpenOptions,
        isUnsafe: Bool? = nil
    ) throws(ImageError) -> ImageChain? {
        guard let name = options.backingName else {
            guard options.backingFormat == nil else { throw .unsupported("a backing format without a backing file") }
            return nil
        }
        guard format == .qcow2 else { throw .unsupported("a raw image has no backing file") }
        guard let backingFormat = options.backingFormat else {
            throw missingFormat(of: name, from: path)
        }
        if isUnsafe == true { return nil }
        var open = open
        open.format = try ImageFormat.named(backingFormat)
        open.snapshot = nil
        guard !BackingName.hasProtocol(name) else {
            throw ImageError(
                .reference, "the backing file \"\(name)\" is not a plain file name",
                advice: isUnsafe == nil ? "name a file" : "say -u to write it down unseen")
        }
        do throws(ImageError) {
            return try ImageChain.open(path: try openable(BackingName.full(name, in: path)), options: open)
        } catch {
            throw ImageError(
                .reference, "the backing file \(error)", advice: isUnsafe == nil ? nil : "say -u to go on without it")
        }
    }

    /// The error for a backing file whose format is not given. One of a format that is not read is called by its name.
    private static func missingFormat(of name: FileName, from path: FilePath) -> ImageError {
        let what = "a backing file is given without its format"
        do throws(ImageError) {
            let file = try HostFile.open(path: try openable(BackingName.full(name, in: path)), direct: .never)
            if let foreign = try ForeignFormat.probe(file) {
                let way = foreign == .luks ? "" : "convert it with qemu-img convert -f \(foreign.rawValue), or "
                return .unsupported(
                    "\(what), and \"\(name)\" is \(foreign.name), which is not read",
                    advice: "\(way)say -F raw to take it as it is")
            }
        } catch {
            // A file that cannot be looked at: what it is stays open.
        }
        return .unsupported(what, advice: "say -F qcow2 or -F raw")
    }

    /// Writes the image.
    public func write() throws(ImageError) {
        let target = try TargetFile.open(request.path, needed: backing?.files ?? [])
        do throws(ImageError) {
            if request.format == .raw {
                try target.clear()
                try DataSpace.give(target.file, from: HostOffset(0), image)
            } else {
                try writeQCOW2(target)
            }
        } catch {
            target.abandon()
            throw error.named(request.path)
        }
    }

    private func writeQCOW2(_ target: TargetFile) throws(ImageError) {
        let layout = try PreallocatedLayout(image)
        // Judged before anything is thrown away.
        let header = try layout.header()
        let data = try DataFile.open(image, of: request.path, needed: [target.file] + (backing?.files ?? []))
        try target.clear()
        try data?.clear()
        try Self.writeTables(layout, target.file)
        if let data {
            try DataSpace.give(data.file, from: HostOffset(0), image)
            try data.file.sync()
        } else if let start = layout.dataStart {
            try DataSpace.give(target.file, from: start, image, length: layout.dataLength)
        }
        try Self.writeHeader(header, target.file)
    }

    static func writeTables(_ layout: PreallocatedLayout, _ file: HostFile) throws(ImageError) {
        var sink = TableSink(file, clusterSize: layout.image.clusterSize)
        try layout.writeTables { (table) throws(ImageError) in try sink.write(table) }
        try sink.flush()
        if !file.isBlockDevice, file.length < layout.fileLength { try file.truncate(to: layout.fileLength) }
    }

    /// Last of all: whatever the header leads to is on the disk before it.
    static func writeHeader(_ header: [UInt8], _ file: HostFile) throws(ImageError) {
        try file.sync()
        try file.write(at: HostOffset(0), header)
        try file.sync()
    }
}

private func openable(_ name: FileName) throws(ImageError) -> FilePath {
    guard let path = FilePath(name) else { throw ImageError(.reference, "the name has a NUL byte") }
    return path
}

/// The file of its own that an image's data may be in.
enum DataFile {
    /// Named as a reader will look for it: from the image's folder.
    static func open(_ image: NewImage, of path: FilePath, needed: [HostFile]) throws(ImageError) -> TargetFile? {
        guard let name = image.options.dataFile else { return nil }
        guard !name.isEmpty, !BackingName.hasProtocol(name) else {
            throw ImageError(.reference, "the data file \"\(name)\" is not a plain file name")
        }
        return try TargetFile.open(try openable(BackingName.full(name, in: path)), needed: needed)
    }
}

/// The space of a disk's plain bytes.
enum DataSpace {
    private static let zeros = [UInt8](repeating: 0, count: 1 << 20)

    /// Gives `length` bytes from `start` on the space that the preallocation asks for. A device has its space: of it only the disk's own
    /// `image.size` bytes are needed.
    static func give(
        _ file: HostFile, from start: HostOffset, _ image: NewImage, length: UInt64? = nil
    ) throws(ImageError) {
        guard !file.isBlockDevice else {
            let end = start + image.size
            guard file.length >= end.bytes else {
                throw ImageError(
                    .unsupported, "the device has \(file.length) bytes and needs \(end.bytes)", path: file.path)
            }
            return
        }
        let length = length ?? image.size
        let end = start + length
        if file.length < end.bytes { try file.truncate(to: end.bytes) }
        guard length > 0 else { return }
        switch image.options.preallocation {
        case .off, .metadata: return
        case .falloc:
            // Where the file system cannot keep space without writing, writing it is.
            if try !file.reserve(at: start, length: length) { try fill(file, from: start, length) }
        case .full: try fill(file, from: start, length)
        }
    }

    static func fill(_ file: HostFile, from start: HostOffset, _ size: UInt64) throws(ImageError) {
        var done: UInt64 = 0
        while done < size {
            let part = min(size - done, UInt64(zeros.count))
            try file.write(at: start + done, part == zeros.count ? zeros : Array(zeros[..<Int(part)]))
            done += part
        }
    }
}
