// What the processes of a map tell each other: the configuration that supervisor and server get, one JSON argument, and
// the report that they send back, one JSON line through a pipe.
import DiskTypes
import Glibc
import ImageChain
import MapRegistry
import LinuxIO
import SystemPackage

/// What supervisor and server must know. Paths are absolute, and for messages only: the files are inherited as
/// descriptors.
struct LoopConfig: Codable, Sendable {
    var name: String
    /// What each file of the chain is, in the order of `ImageChain.files`.
    var files: [KnownFile]
    /// Bytes of the disk: the same for every server.
    var size: UInt64
    /// Bytes of a logical block of the device.
    var blockSize: Int
    @CodedPath var image: FilePath
    /// What the image was when the map was made. One that this program does not know cannot be decoded: never a guess.
    var format: ImageFormat
    @CodedPaths var allowedFolders: [FilePath]
    var snapshot: String?
    var l2CacheLimit: UInt64
    var lock: Bool
    var direct: Bool
    var depthLimit: Int
    var readOnly: Bool
    var workers: Int
    @CodedPath var executable: FilePath
    @CodedPath var registryFolder: FilePath

    init(_ options: LoopMapOptions, name: String, image: FilePath, chain: ImageChain) {
        self.name = name
        files = chain.knownFiles
        size = chain.size
        blockSize = options.open.blockSize
        _image = CodedPath(wrappedValue: image)
        format = chain.layers[0].format
        _allowedFolders = CodedPaths(wrappedValue: options.open.allowedFolders)
        snapshot = options.open.snapshot
        l2CacheLimit = options.open.l2CacheLimit
        lock = options.open.lock
        direct = options.open.direct
        depthLimit = options.open.depthLimit
        readOnly = options.readOnly
        workers = max(1, min(options.workers, 16))
        _executable = CodedPath(wrappedValue: options.executable)
        _registryFolder = CodedPath(wrappedValue: options.registry.folder)
    }

    private func open(_ use: OpenedFile.Use, from first: Int32) -> OpenOptions {
        var options = OpenOptions()
        options.format = format
        options.allowedFolders = allowedFolders
        options.snapshot = snapshot
        options.l2CacheLimit = l2CacheLimit
        options.lock = lock
        options.direct = direct
        options.depthLimit = depthLimit
        options.blockSize = blockSize
        options.writable = !readOnly
        options.filesUse = use
        options.files = files.enumerated().map { index, known in
            OpenedFile(descriptor: first + Int32(truncatingIfNeeded: index), known: known)
        }
        return options
    }

    /// For the supervisor, which keeps the files that `map` opened, and their locks, and moves no bytes. `first`: the
    /// first of the descriptors that it inherited.
    func openForLocks(from first: Int32) throws(ImageError) -> ImageChain {
        var options = open(.share, from: first)
        options.takesWriterLock = false
        options.joinsLocks = true
        return try chain(options, from: first)
    }

    /// For a server, which gets open file descriptions of its own. A server that writes takes the supervisor's locks,
    /// too: should the supervisor be killed, they stay.
    func openForServing(from first: Int32) throws(ImageError) -> ImageChain {
        var options = open(.reopen, from: first)
        options.joinsLocks = !readOnly
        let chain = try chain(options, from: first)
        guard chain.size >= size else {
            throw ImageError(.reference, "the disk is smaller than when the map was made", path: image)
        }
        return chain
    }

    /// Opens the chain; the descriptors that it was made from are closed.
    private func chain(_ options: OpenOptions, from first: Int32) throws(ImageError) -> ImageChain {
        defer { for index in files.indices { close(first + Int32(truncatingIfNeeded: index)) } }
        return try ImageChain.open(path: image, options: options)
    }

    func encoded() throws(ImageError) -> String { try LoopWire.encode(self) }
    static func decoded(_ text: String) throws(ImageError) -> LoopConfig { try LoopWire.decode(text) }
}

/// How a process started: with a record (once the map can be used), or an error. A server that serves sends neither.
struct LoopReport: Codable, Sendable {
    var record: MapRecord?
    var error: WireError?
    /// Sentences for the user who called `map`.
    var notes: [String]?

    struct WireError: Codable, Sendable {
        var kind: String
        var what: String
        var at: UInt64?
        var advice: String?
        var path: FileName?
    }

    init(_ record: MapRecord?, notes: [String] = []) {
        self.record = record
        self.notes = notes.isEmpty ? nil : notes
    }

    init(_ error: ImageError) {
        self.error = WireError(
            kind: Self.kinds.first { $0.value == error.kind }?.key ?? "system", what: error.what,
            at: error.at?.bytes, advice: error.advice, path: error.path)
    }

    /// The error as it was thrown in the other process; nil: there was none.
    var thrown: ImageError? {
        error.map {
            ImageError(
                Self.kinds[$0.kind] ?? .system, $0.what, at: $0.at.map(HostOffset.init), advice: $0.advice,
                path: $0.path)
        }
    }

    private static let kinds: [String: ImageError.Kind] = [
        "malformed": .malformed, "unsupported": .unsupported, "reference": .reference, "locked": .locked,
        "system": .system, "notFound": .notFound,
    ]
}

enum LoopWire {
    static func encode(_ value: some Encodable) throws(ImageError) -> String {
        try RecordCoding.message(value)
    }
    static func decode<Value: Decodable>(_ text: String) throws(ImageError) -> Value {
        guard let value = RecordCoding.decode(Value.self, text.utf8) else {
            throw ImageError(
                .system, "a message of another qblk process makes no sense",
                advice: "if qblk was installed anew meanwhile, take the map down and make it again")
        }
        return value
    }
}
