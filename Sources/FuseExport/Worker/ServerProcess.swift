// The process that serves a map, as its supervisor starts it, and what it does. It is a process of its own so that its
// death, by whatever cause, does not end the disk: the supervisor starts the next one on the same connection.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Logging
import QCOW2
import SystemPackage

/// A running server, seen by its supervisor.
struct ServerProcess: ~Copyable {
    let process: ChildProcess
    let identity: ProcessIdentity?
    /// Readable once the server serves, once it gives its image up, and once it is dead.
    let report: OwnedFD

    /// The numbers of the descriptors that a server inherits.
    static let reportNumber: Int32 = 3
    static let firstDevice: Int32 = 4
    static func journalNumber(_ config: LoopConfig) -> Int32 { firstDevice + Int32(config.workers) }
    static func firstFile(_ config: LoopConfig) -> Int32 { journalNumber(config) + 1 }

    /// `files`: the chain's, in the order of `ImageChain.files`. `journal`: memory for changes of the mapping that the
    /// disk lacks, the same for every server of a map; -1: none.
    static func start(
        _ config: LoopConfig, devices: [Int32], files: [Int32], journal: Int32
    ) throws(ImageError) -> ServerProcess {
        let pipe = try LoopReport.pipe()
        var inherit = [ChildProcess.Inheritance(fd: pipe.writing.raw, as: reportNumber)]
        for (i, device) in devices.enumerated() {
            inherit.append(ChildProcess.Inheritance(fd: device, as: firstDevice + Int32(i)))
        }
        for (i, file) in files.enumerated() {
            inherit.append(ChildProcess.Inheritance(fd: file, as: firstFile(config) + Int32(i)))
        }
        if journal >= 0 { inherit.append(ChildProcess.Inheritance(fd: journal, as: journalNumber(config))) }
        let arguments = ["qblk", FileName(LoopExport.serverVerb), FileName(try config.encoded())]
        let process: ChildProcess
        do throws(Errno) {
            process = try ChildProcess.spawn(
                config.executable, arguments, inherit: inherit, options: [.nullStandardIO, .rootDirectory, .newSession])
        } catch {
            throw ImageError(.system, "cannot start the server: \(errorText(error.rawValue))")
        }
        return ServerProcess(process: process, identity: process.identity, report: pipe.keepReading())
    }

    // MARK: in the server

    /// Runs the server to its end; returns its exit code.
    static func live(_ config: LoopConfig, log: Logger) -> Int32 {
        // A service manager that stops all processes at once (systemd) must not end the server before the supervisor
        // has taken the disk down.
        for number in [SIGTERM, SIGINT, SIGHUP] { signal(number, SIG_IGN) }
        signal(SIGPIPE, SIG_IGN)
        let protection = ServerProtection.begin(writable: !config.readOnly)
        do throws(ImageError) {
            let chain = try config.openForServing(from: firstFile(config))
            // Clusters that are given up go back to the file system, as with a disk of its own.
            chain.writer?.returnsSpace(true)
            if let writer = chain.writer { try replay(writer, config, log) }
            let devices = (0..<config.workers).map { firstDevice + Int32($0) }
            var file = FuseFile(chain)
            // If the file has grown meanwhile, the device has not.
            file.size = config.size
            try FuseServer(chain: chain, file: file, devices: devices, lost: { tellLoss(config, log) }).run {
                let notes = protection.complete()
                for note in notes { log.notice("\(config.image): \(note)") }
                LoopReport(nil, notes: chain.isWritable ? notes : []).send(to: reportNumber)
            }
            return finish(chain, log)
        } catch {
            LoopReport(error).send(to: reportNumber)
            log.error("cannot serve \(config.image): \(error)")
            return 1
        }
    }

    /// Tells the supervisor that the image was cut under the server: the map is given up.
    private static func tellLoss(_ config: LoopConfig, _ log: Logger) {
        let error = ImageError(.malformed, "the image was cut while it was mapped")
        if !LoopReport(error).send(to: reportNumber) { log.error("\(config.image): \(error)") }
    }

    /// Replays the changes that the disk lacks because the server before this one was killed.
    private static func replay(_ writer: ImageWriter, _ config: LoopConfig, _ log: Logger) throws(ImageError) {
        let memory: JournalMemory
        do throws(Errno) { memory = try JournalMemory(journalNumber(config)) } catch {
            throw ImageError(.system, "cannot use the memory for changes: \(errorText(error.rawValue))")
        }
        guard let journal = memory.journal else { return }
        switch try writer.use(journal) {
        case .fresh: break
        case .changes(let count): log.notice("\(config.image): took over \(count) changes of a killed server")
        case .afterFailure:
            log.error("\(config.image): a sync had failed before a server was killed: all syncs fail")
        case .refused(let why):
            log.error("\(config.image): changes of a killed server cannot be taken over (\(why)): the next sync fails")
        }
    }

    /// The connection has ended and nothing is in flight. Brings everything that was written to the disk before this
    /// process ends: unmap waits for that.
    private static func finish(_ chain: ImageChain, _ log: Logger) -> Int32 {
        // The kernel frees rings after a process's end; until then they would keep the files open, and locked.
        defer { for file in chain.files { ImageLock.release(file) } }
        guard chain.isWritable else { return 0 }
        do throws(ImageError) {
            try chain.close()
            for file in chain.files where file.isWritable { try file.sync() }
            let error = chain.flushed(0, buffered: true)
            guard error == 0 else { throw ImageError(.system, "a flush has failed: \(errorText(error))") }
            return 0
        } catch {
            log.error("not everything could be written back to \(chain.files.first?.path ?? FilePath()): \(error)")
            return 1
        }
    }
}

/// The memory for the mapping journal, which the supervisor keeps for the next server.
private final class JournalMemory: Sendable {
    private let mapping: Mapping

    init(_ fd: Int32) throws(Errno) {
        mapping = try Mapping(fd: fd, count: MappingJournal.usualBytes, writable: true)
    }

    var journal: MappingJournal? { unsafe MappingJournal(mapping.pointer, bytes: mapping.count, keeping: self) }
}
