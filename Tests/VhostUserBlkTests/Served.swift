// The back-end under test, in this process: a server with as many disks as a test wants, what it logs, and the way to
// it. Tests that look at the process itself (descriptors, mappings, its end) start the program.
import DiskTypes
import Foundation
import ImageChain
import LinuxIO
import Logging
import Synchronization
import TestKit
import VhostUserBlk
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

/// What a server said.
final class LogLines: Sendable {
    private let kept = Mutex<[String]>([])
    var all: [String] { kept.withLock { $0 } }
    func count(_ part: String) -> Int { all.count { $0.contains(part) } }
    func add(_ line: String) { kept.withLock { $0.append(line) } }

    struct Handler: LogHandler {
        let lines: LogLines
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.info
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }
        // swift-format-ignore
        func log(event: LogEvent) { lines.add("\(event.level): \(event.message)") }
    }
}

/// A server in this process.
final class Served {
    let folder: String
    let lines = LogLines()
    let server: VhostUserServer
    private var count = 0
    private var isStopped = false

    init(workers: Int = 2, poll: PollMode = .adaptive) throws {
        folder = try Scratch.newFolder("served")
        var options = ServerOptions()
        options.workers = workers
        options.poll = poll
        let lines = lines
        server = try VhostUserServer(
            options, log: Logger(label: "test", factory: { _ in LogLines.Handler(lines: lines) }))
    }

    deinit {
        stop()
        try? FileManager.default.removeItem(atPath: folder)
    }

    func stop() {
        if !isStopped { server.stop() }
        isStopped = true
    }

    func path(_ name: String) -> String { "\(folder)/\(name)" }

    /// Serves a file of the folder; the socket to connect to.
    func add(
        _ name: String, format: ImageFormat = .raw, writable: Bool = true, direct: Bool = false, queues: Int = 1,
        change: (inout ExportOptions) -> Void = { _ in }
    ) throws -> String {
        var open = OpenOptions()
        open.format = format
        open.writable = writable
        open.direct = direct
        let chain = try ImageChain.open(path: FilePath(path(name)), options: open)
        var options = ExportOptions(chain: chain, name: name)
        options.queueCount = queues
        change(&options)
        count += 1
        let socket = path("\(count).sock")
        try server.add(options, .listener(try LinuxIO.UnixSocket.listen(FilePath(socket))))
        return socket
    }

    /// Serves a file of the folder to a guest that may come and go; `isIncoming`: it is elsewhere now.
    func addMovable(
        _ name: String, format: ImageFormat, isIncoming: Bool, look seen: (ImageChain) -> Void = { _ in }
    ) throws -> String {
        let path = path(name)
        var open = OpenOptions()
        open.format = format
        open.writable = true
        open.direct = false
        var look = open
        look.writable = false
        look.lock = false
        var options = ExportOptions(
            chain: try ImageChain.open(path: FilePath(path), options: isIncoming ? look : open), name: name)
        options.isIncoming = isIncoming
        seen(options.chain)
        options.reopen = { [open] () throws(ImageError) in try ImageChain.open(path: FilePath(path), options: open) }
        count += 1
        let socket = self.path("\(count).sock")
        try server.add(options, .listener(try LinuxIO.UnixSocket.listen(FilePath(socket))))
        return socket
    }

    /// A raw file of `bytes`, in which every sector begins with its number; served.
    func disk(
        _ bytes: Int = 4 << 20, writable: Bool = true, queues: Int = 1,
        change: (inout ExportOptions) -> Void = { _ in }
    ) throws -> String {
        let name = "disk\(count).raw"
        try Files.numbered(path(name), bytes)
        return try add(name, writable: writable, queues: queues, change: change)
    }
}

enum Files {
    /// A raw file in which every sector begins with its number.
    static func numbered(_ path: String, _ bytes: Int) throws {
        var data = Data(count: bytes)
        data.withUnsafeMutableBytes { memory in
            for sector in 0..<bytes / 512 {
                memory.storeBytes(of: UInt32(sector).littleEndian, toByteOffset: sector * 512, as: UInt32.self)
            }
        }
        try data.write(to: URL(filePath: path))
    }

    static func bytes(_ path: String, at offset: Int = 0, _ count: Int? = nil) throws -> [UInt8] {
        let file = try FileHandle(forReadingFrom: URL(filePath: path))
        try file.seek(toOffset: UInt64(offset))
        let data = try count.map { try file.read(upToCount: $0) } ?? file.readToEnd()
        return Array(data ?? Data())
    }

    /// A preallocated qcow2 whose disk is all zeros.
    static func preallocated(_ path: String, _ bytes: Int, options: String = "") throws {
        let extra = options.isEmpty ? "" : ",\(options)"
        try Command(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=falloc\(extra)", path, "\(bytes)"]
        ).succeed()
    }
}

/// How rings are laid out and how they say that there is news.
enum Rings: String, CaseIterable, CustomStringConvertible, Sendable {
    case split, splitEvent, packed, packedEvent
    static let both: [Rings] = [.splitEvent, .packedEvent]
    var description: String { rawValue }
    var isPacked: Bool { self == .packed || self == .packedEvent }

    var options: FrontendOptions {
        var options = FrontendOptions()
        options.packed = isPacked
        options.eventIndex = self == .splitEvent || self == .packedEvent
        return options
    }
}

/// Sectors' numbers as `Files.numbered` has them.
func number(_ bytes: [UInt8]) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[$1]) << (8 * $1) } }

extension VhostUserFrontend {
    /// A front-end with one client per queue, running.
    static func running(
        _ socket: String, _ options: FrontendOptions = FrontendOptions(), queues: Int = 1
    ) throws -> (frontend: VhostUserFrontend, clients: [BlockClient]) {
        let frontend = try connect(FilePath(socket), options)
        let clients = try (0..<queues).map { _ in try BlockClient(frontend) }
        try frontend.start()
        return (frontend, clients)
    }
}
