// `resize` from start to end: what must not be done is refused before anything changes, and an image has its new size
// only when everything behind its old end reads as it must.

import BlockEngine
public import DiskTypes
public import ImageChain
import LinuxIO
public import QCOW2
public import SystemPackage

/// Changes the size of an image's disk.
public enum FileResize {
    /// The new size, or the difference to the old one; in bytes.
    public enum Change: Sendable, Equatable {
        case to(UInt64), more(UInt64), less(UInt64)

        /// `20G`, `+5G`, `-1G`; nil: no size.
        public init?(_ text: String) {
            let number = text.first == "+" || text.first == "-" ? String(text.dropFirst()) : text
            guard let bytes = ByteSize.parse(number) else { return nil }
            self = text.first == "+" ? .more(bytes) : text.first == "-" ? .less(bytes) : .to(bytes)
        }

        /// The new size; nil: there is none such.
        func applied(to size: UInt64) -> UInt64? {
            let (new, overflow) =
                switch self {
                case .to(let bytes): (bytes, false)
                case .more(let bytes): size.addingReportingOverflow(bytes)
                case .less(let bytes): size.subtractingReportingOverflow(bytes)
                }
            return overflow || new == 0 || new > Limits.virtualSize ? nil : new
        }
    }

    /// What the caller decides about a resize.
    public struct Request: Sendable {
        /// Path of the image.
        public var path: FilePath
        /// How to open it; the format must be known for a raw image.
        public var options = OpenOptions()
        /// The new size.
        public var change: Change
        /// Give up what lies behind a smaller size.
        public var mayShrink = false
        /// What space the new part gets.
        public var preallocation = PreallocationMode.off

        /// A resize that neither shrinks nor preallocates.
        public init(path: FilePath, change: Change) {
            self.path = path
            self.change = change
        }

        /// The new size of a disk of `size` bytes.
        func newSize(_ size: UInt64) throws(ImageError) -> UInt64 {
            guard let new = change.applied(to: size) else { throw .unsupported("the new size must be positive") }
            if new <= size, preallocation != .off {
                throw .unsupported("preallocation is for the new part of a disk that grows")
            }
            guard new >= size || mayShrink else {
                throw .unsupported(
                    "the disk has \(size) bytes: what lies behind \(new) would be lost",
                    advice: "say --shrink to shrink it")
            }
            return new
        }
    }

    /// An error leaves the disk with its old size; one that shrinks may have lost its end.
    public static func run(_ request: Request) throws(ImageError) {
        do throws(ImageError) {
            var open = request.options
            (open.writable, open.direct) = (true, false)
            open.format = try ImageFormat.required(open.format, path: request.path, readOnly: false)
            if open.format == .raw { return try RawResize.run(request, open) }
            // From here on its files are locked.
            let chain = try ImageChain.open(path: request.path, options: open)
            guard let image = chain.layers[0].image else { throw .unsupported("the image is not qcow2") }
            let newSize = try request.newSize(chain.size)
            if newSize == chain.size { return }
            try ImageResize.judge(image, to: newSize)
            let resize = ImageFileResize(chain, image, request, open, newSize)
            if newSize > chain.size { try resize.grow() } else { try resize.shrink() }
        } catch {
            throw error.named(request.path)
        }
    }
}

/// The steps for a qcow2 image.
private struct ImageFileResize {
    let chain: ImageChain
    let image: QCOW2Image
    let request: FileResize.Request
    let open: OpenOptions
    let newSize: UInt64
    let file: HostFile
    /// The external data file.
    let data: HostFile?
    let mode: PreallocationMode

    init(
        _ chain: ImageChain, _ image: QCOW2Image, _ request: FileResize.Request, _ open: OpenOptions, _ newSize: UInt64
    ) {
        (self.chain, self.image, self.request, self.open, self.newSize) = (chain, image, request, open, newSize)
        let layer = chain.layers[0]
        file = chain.files[Int(layer.metadataFile)]
        data = layer.dataFile == layer.metadataFile ? nil : chain.files[Int(layer.dataFile)]
        // A raw data file is the disk for who reads it alone: then every cluster must be mapped.
        let isRaw = image.header.autoclear.contains(.rawExternalData)
        mode = isRaw && request.preallocation == .off ? .metadata : request.preallocation
    }

    func grow() throws(ImageError) {
        let hidesBacking = chain.layers.count > 1 && chain.layers[1].size > chain.size
        guard !hidesBacking || image.header.version >= 3 else {
            throw .unsupported(
                "the backing file has data behind the disk's end, and a version 2 image has no entries that hide it")
        }
        try completeLastCluster()
        try growDataFile()
        try ImageResize.growTables(file, to: newSize)
        try ImageResize.clearBehind(file, data: data, to: newSize, hidesBacking: hidesBacking)
        if mode != .off {
            try ImageResize.allocateBehind(file, data: data, to: newSize) {
                (host, length, isFresh) throws(ImageError) in
                try give(host, length, isFresh)
            }
        }
        try clearLastCluster()
        try data?.sync()
        try ImageResize.setSize(file, to: newSize)
    }

    /// A preallocated file may end with the disk, inside its last cluster. The rest of that cluster becomes part of the disk,
    /// and has to be there to be looked at. Nothing else may be cut short: its bytes would become zeros.
    private func completeLastCluster() throws(ImageError) {
        let cluster = image.header.clusterSize
        let end = file.length & ~(cluster - 1)
        guard data == nil, !file.isBlockDevice, end < file.length, chain.size >= 512 else { return }
        guard case .extent(let last) = ExtentWalker.lookup(chain, GuestOffset(chain.size - 512), length: 512),
            last.layer == 0, last.kind == .data, last.host.bytes & ~(cluster - 1) == end,
            last.host.bytes + 512 <= file.length
        else { return }
        try file.truncate(to: end + cluster)
    }

    /// The data file's new part: zeros, whatever was there.
    private func growDataFile() throws(ImageError) {
        guard let data else { return }
        guard !data.isBlockDevice else {
            guard data.length >= newSize else {
                throw ImageError(.unsupported, "the device has \(data.length) bytes", path: data.path)
            }
            return
        }
        if data.length > chain.size { try data.truncate(to: chain.size) }
        try data.truncate(to: newSize)
    }

    /// Space for clusters of the new part, all zeros.
    private func give(_ host: HostOffset, _ length: UInt64, _ isFresh: Bool) throws(ImageError) {
        let store = data ?? file
        // The disk's last cluster may be longer than the disk.
        let end = data == nil ? host.bytes + length : min(host.bytes + length, newSize)
        let count = end - host.bytes
        let isZero = isFresh || data.map { !$0.isBlockDevice } ?? false
        switch mode {
        case .off, .metadata: if !isZero { try DataSpace.fill(store, from: host, count) }
        case .falloc:
            if isZero, try store.reserve(at: host, length: count) { return }
            try DataSpace.fill(store, from: host, count)
        case .full: try DataSpace.fill(store, from: host, count)
        }
    }

    /// What the old disk's last cluster has behind the disk's end was never to be seen. From now on it is.
    private func clearLastCluster() throws(ImageError) {
        let cluster = image.header.clusterSize
        let end = min((chain.size + cluster - 1) & ~(cluster - 1), newSize)
        guard end > chain.size else { return }
        var options = open
        // This process has the locks.
        (options.joinsLocks, options.takesWriterLock, options.diskSize) = (true, false, newSize)
        let grown = try ImageChain.open(path: request.path, options: options)
        try clear(grown, GuestOffset(chain.size), count: Int(end - chain.size))
        try grown.close()
    }

    private func clear(_ grown: ImageChain, _ place: GuestOffset, count: Int) throws(ImageError) {
        let reader = try ChainReader(grown, depth: 1)
        var bytes = try reader.read(place, count: count)
        guard bytes.contains(where: { $0 != 0 }) else { return }
        bytes = [UInt8](repeating: 0, count: count)
        let result = unsafe bytes.withUnsafeMutableBytes { bytes in
            Result { () throws(ImageError) in
                try unsafe reader.write(place, from: bytes)
                try reader.flush()
            }
        }
        try result.get()
    }

    func shrink() throws(ImageError) {
        // What is used and counts as free would be cut off.
        guard try ImageCheck.check(file).verdict != .corrupt else {
            throw .malformed("the image has errors and is not shrunk", advice: "repair it with qblk check -r all")
        }
        try ImageResize.giveUpBehind(file, data: data, newSize)
        try ImageResize.setSize(file, to: newSize)
        // Not before: the disk of the old size would have lost its file.
        if let data, !data.isBlockDevice, data.length > newSize { try data.truncate(to: newSize) }
    }
}
