// What `attach` and the supervisor of a disk tell each other: the configuration, one JSON argument, and the report, one
// line through a pipe.
import DiskTypes
import ImageChain
import LinuxIO
import MapRegistry
import SystemPackage

/// What the supervisor of a served disk must know. Paths are absolute.
struct SupervisorConfig: Codable, Sendable {
    /// The disk's folder in the registry.
    var key: String
    @CodedPath var registryFolder: FilePath
    @CodedPath var executable: FilePath
    /// Arguments of the server: of `qblk`, from the verb on.
    var arguments: [FileName]
    @CodedPath var socket: FilePath
    /// QEMU's user and group, which must be able to connect to the socket.
    var user: UInt32
    var group: UInt32
    /// The VM's process: the disk ends with it.
    var machine: ProcessIdentity?
    /// What the image's files are; their descriptors are inherited, from `firstFile` on.
    var files: [KnownFile]
    /// The VM has the disk already, and the server's one connection: the server cannot be asked whether it answers.
    var isTakeover = false

    /// The number of the descriptor of the image's first file, in supervisor and server.
    static let firstFile: Int32 = 10

    func encoded() throws(ImageError) -> String { try RecordCoding.message(self) }
    static func decoded(_ text: String) -> SupervisorConfig? { RecordCoding.decode(SupervisorConfig.self, text.utf8) }
}

/// How the start of the server went.
enum SupervisorReport: Equatable {
    case serves(ProcessIdentity)
    case failed(String)

    /// The number of the pipe's descriptor in the supervisor.
    static let descriptor: Int32 = 3

    var line: String {
        switch self {
        case .serves(let server): "serves \(server.pid) \(server.startTime)\n"
        case .failed(let reason): "failed \(reason.split(whereSeparator: \.isNewline).joined(separator: " "))\n"
        }
    }

    init?(_ line: String) {
        let words = line.split(separator: " ", maxSplits: 1)
        guard words.count == 2 else { return nil }
        let rest = words[1].split(whereSeparator: \.isNewline).joined(separator: " ")
        switch words[0] {
        case "serves":
            let numbers = rest.split(separator: " ")
            guard numbers.count == 2, let pid = Int32(numbers[0]), let start = UInt64(numbers[1]) else { return nil }
            self = .serves(ProcessIdentity(pid: pid, startTime: start))
        case "failed": self = .failed(rest)
        default: return nil
        }
    }

    /// Reads to the end of the line or of the pipe; nil when the supervisor died without a report.
    static func receive(_ fd: Int32) -> SupervisorReport? {
        StatusPipe.receive(fd).flatMap(SupervisorReport.init)
    }
}
