// The process that starts a disk's server again when it dies (QEMU reconnects, and what was in flight is served again),
// and takes the disk down when it is told to or the VM has ended. So a VM does not lose its disk with a process, and no
// image stays locked after its VM.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import MapRegistry
import SystemPackage

/// The supervisor of one disk. Everything happens on the thread that runs it.
final class DiskSupervisor: SupervisedDisk {
    private let config: SupervisorConfig
    private let registry: AttachmentRegistry
    private let files: HeldFiles
    /// Waits for signals and for the server, and starts the next one; from `run` on.
    private var supervision: ServerSupervisor?
    private var machine: OwnedFD?
    private var server: ChildProcess?
    /// What the server says on standard error.
    private var output: OwnedFD?
    private var lastLine = ""
    private var unfinished: [UInt8] = []
    /// The server has its socket, and handles signals.
    private var isServing = false
    /// The VM has the disk: a server that dies is followed by another.
    private var isWatching = false

    init(_ config: SupervisorConfig) {
        self.config = config
        registry = AttachmentRegistry(folder: config.registryFolder)
        files = HeldFiles(inherited: config.files, from: SupervisorConfig.firstFile)
    }

    /// Runs the supervisor to its end; returns the exit code.
    func run() -> Int32 {
        SystemLog.open(name: "qblk")
        do throws(Errno) {
            supervision = try ServerSupervisor()
            machine = try config.machine?.open()
        } catch {
            return refuse("cannot watch over the disk: \(errorText(error.rawValue))")
        }
        if config.machine != nil, machine == nil { return refuse("the VM has gone") }
        if let reason = start() ?? (config.isTakeover ? nil : awaitAnswer()) { return refuse(reason) }
        guard let identity = server?.identity else { return refuse("the server died while it started") }
        report(.serves(identity))
        watch()
        stop()
        return 0
    }

    private func refuse(_ reason: String) -> Int32 {
        stop()
        report(.failed(reason))
        return 1
    }

    private func report(_ report: SupervisorReport) {
        StatusPipe.send(report.line, to: SupervisorReport.descriptor)
        close(SupervisorReport.descriptor)
    }

    // MARK: the server

    /// Starts the server and waits until its socket is there. Returns nil, or why it is not.
    private func start() -> String? {
        isServing = false
        do throws(Errno) {
            try Filesystem.removeFile(config.socket)
            let pipe = try StatusPipe()
            _ = fcntl(pipe.reading.raw, F_SETFL, O_NONBLOCK)
            supervision?.serverStarts()
            server = try ChildProcess.spawn(
                config.executable, ["qblk"] + config.arguments,
                inherit: [ChildProcess.Inheritance(fd: pipe.writing.raw, as: STDERR_FILENO)]
                    + files.inheritances(from: SupervisorConfig.firstFile), options: .daemon)
            output = pipe.keepReading()
        } catch {
            return "cannot start the server: \(errorText(error.rawValue))"
        }
        lastLine = ""
        if let reason = turn(until: { Filesystem.exists(config.socket) }) ?? makeAccessible() { return reason }
        isServing = true
        return nil
    }

    /// Waits until the server answers. Not for a server that a VM talks to already: it serves one connection at a time.
    private func awaitAnswer() -> String? { turn { VhostUserProbe.answers(config.socket, milliseconds: 1_000) } }

    private func turn(until done: () -> Bool) -> String? {
        guard let supervision else { return "the server does not begin to serve" }
        let isDone = supervision.wait(
            self, until: done, orElse: { supervision.stopWanted || server == nil }, seconds: 60, step: 20)
        if isDone { return nil }
        if supervision.stopWanted { return "stopped while the server started" }
        guard server != nil else { return lastLine.isEmpty ? "the server died while it started" : lastLine }
        return "the server does not begin to serve"
    }

    /// Gives the socket to QEMU's user, which is often not root.
    private func makeAccessible() -> String? {
        guard geteuid() == 0 else { return nil }
        let given = unsafe config.socket.withPlatformString {
            unsafe chown($0, config.user, config.group) == 0 && chmod($0, 0o600) == 0
        }
        guard given else {
            return "cannot give \(config.socket) to QEMU: \(errorText(errno))"
        }
        return nil
    }

    // MARK: watching

    private func watch() {
        isWatching = true
        while let supervision, !supervision.stopWanted { supervision.watch(self, milliseconds: -1) }
    }

    var process: ChildProcess? { server }
    /// The VM's end, and what the server prints.
    var awaited: [Int32] { [machine?.raw ?? -1, output?.raw ?? -1] }

    func handle(_ isReady: [Bool]) {
        if isReady[0] {
            SystemLog.write(.info, "the VM of \(config.socket) has ended")
            supervision?.stopWanted = true
        }
        hear()
    }

    func handle(signal: Int32) { if signal == SIGHUP { reload() } }

    func serverEnded(_ end: ChildProcess.End) -> Bool {
        server = nil
        // What it printed last.
        hear()
        return isWatching
    }

    func willRestart(in pause: Int64, after end: ChildProcess.End) {
        SystemLog.write(.error, "the server of \(config.socket) died: starting another in \(pause) ms")
    }

    func restartServer() {
        guard supervision?.stopWanted == false else { return }
        if let reason = start() { SystemLog.write(.error, "\(config.socket): \(reason)") } else { rewrite() }
    }

    /// Sends SIGHUP on to the server, where it has the same meaning. A server that is starting reads the image's size
    /// anyway.
    private func reload() {
        guard isServing, let server else { return }
        do throws(Errno) { try server.kill(SIGHUP) } catch {
            // It has died: the next one reads the size anyway.
        }
    }

    /// Writes what the server prints to the system's log, line by line.
    private func hear() {
        guard let fd = output?.raw else { return }
        var piece = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = unsafe read(fd, &piece, piece.count)
            if count < 0 && errno == EINTR { continue }
            if count == 0 { output = nil }
            guard count > 0 else { return }
            for byte in piece[..<count] {
                if byte != UInt8(ascii: "\n"), unfinished.count < 4096 {
                    unfinished.append(byte)
                    continue
                }
                lastLine = String(decoding: unfinished, as: UTF8.self)
                unfinished = []
                if lastLine.hasPrefix("qblk: ") { lastLine.removeFirst("qblk: ".count) }
                SystemLog.write(.notice, printable(lastLine))
            }
        }
    }

    // MARK: end

    private func stop() {
        if let server {
            if let identity = server.identity {
                ProcessTermination.end(identity, timeout: 30_000)
            }
            do throws(Errno) {
                let end = try server.wait()
                hear()
                if end != .exited(0) { noteTrouble() }
            } catch {
                // Reaped already.
            }
        }
        server = nil
        config.socket.unlink()
        guard let machine = config.machine, !machine.isAlive else { return }
        // The VM has ended: there will be no `detach` to remove the record.
        do throws(ImageError) {
            guard let lock = try registry.lock(config.key) else { return }
            try registry.remove(lock.key)
        } catch { SystemLog.write(.warning, "\(error)") }
    }

    /// Records the server's failure, for `detach` to report.
    private func noteTrouble() {
        SystemLog.write(.error, "\(config.socket): the server did not end in order: \(lastLine)")
        do throws(ImageError) {
            guard var record = try registry.record(config.key), !record.readOnly else { return }
            record.trouble = lastLine.isEmpty ? "the server did not end in order" : lastLine
            try registry.write(record, config.key)
        } catch { SystemLog.write(.warning, "\(error)") }
    }

    private func rewrite() {
        do throws(ImageError) {
            guard var record = try registry.record(config.key) else { return }
            record.server = server?.identity
            try registry.write(record, config.key)
        } catch { SystemLog.write(.warning, "\(error)") }
    }
}
