// The process that keeps a map alive whatever happens to the process that serves it. It opens the image (and so holds
// its locks), mounts, keeps the connection, starts servers, attaches the loop device, and takes all of that down in
// order. It carries no requests, so little can make it fail.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Logging
import MapRegistry
import SystemPackage

/// The supervisor of one map. Everything happens on the thread that runs it, except attaching.
final class Supervisor: SupervisedDisk {
    let config: LoopConfig
    let registry: MapRegistry
    let log: Logger
    /// Held for its locks, and for its descriptors, which each server gets.
    private(set) var chain: ImageChain?
    private let openChain: () throws(ImageError) -> ImageChain
    var connection: FuseConnection?
    var server: ServerProcess?
    /// Changes of the mapping that the disk lacks: the next server replays them.
    var journal: SharedMemory?
    /// Waits for signals and for the server, and starts the next one; from `setUp` on.
    private(set) var supervision: ServerSupervisor?
    private(set) var record: MapRecord?
    /// The server has reported that it serves.
    var serving = false
    /// The server's pipe has ended, or reported an error: it is not read again.
    var hasHeardAll = false
    /// Sentences of the server for the user.
    var notes: [String] = []
    /// No server can serve these files any more: all requests fail.
    var hasGivenUp = false
    /// Why the map cannot be made: the server could not begin, or died.
    var failure: ImageError?
    /// Gets the attaching thread's result.
    private var attaching: Mailbox<Result<LoopDevice, ImageError>>?
    private var deferredWanted = false
    /// Why the image may lack what was written to the device.
    private(set) var trouble: String?

    init(_ config: LoopConfig, log: Logger, _ openChain: @escaping () throws(ImageError) -> ImageChain) {
        self.config = config
        self.log = log
        self.openChain = openChain
        registry = MapRegistry(folder: config.registryFolder)
    }

    var folder: FilePath { registry.folder(of: config.name) }
    var diskPath: FilePath { folder.appending("disk") }

    /// Makes the map, calls `ready` with how that went (false: the caller is gone), and supervises it to its end.
    /// Returns the exit code.
    func run(ready: (Result<MapRecord, ImageError>) -> Bool) -> Int32 {
        let made: MapRecord
        do throws(ImageError) {
            made = try setUp()
        } catch {
            abandon()
            detachLate()
            _ = ready(.failure(error))
            return 1
        }
        guard ready(.success(made)) else {
            log.notice("the caller that wanted the map of \(config.image) is gone: taking it down")
            // udev and similar programs open a new device for a moment.
            for _ in 0..<50 {
                if takeDown(deferred: true) { return 1 }
                usleep(100_000)
            }
            abandon()
            return 1
        }
        log.info("\(made.image) is \(made.device)")
        watch()
        log.info("\(made.image) is no longer \(made.device)")
        if let trouble { log.error("\(made.image): \(trouble)") }
        return trouble == nil ? 0 : 1
    }

    // MARK: making the map

    private func setUp() throws(ImageError) -> MapRecord {
        do throws(Errno) { supervision = try ServerSupervisor(signals: [SIGUSR1]) } catch {
            throw ImageError(.system, "cannot take in signals: \(errorText(error.rawValue))")
        }
        let chain = try openChain()
        self.chain = chain
        let disk = diskPath.open(O_WRONLY | O_CREAT | O_CLOEXEC, config.readOnly ? 0o400 : 0o600)
        guard disk >= 0 else { throw ImageError(.system, "cannot make \(diskPath): \(errorText(errno))") }
        close(disk)
        connection = try FuseConnection(
            mountPoint: diskPath, file: FuseFile(chain), name: config.image, workers: config.workers)
        try startServer()
        try turn(until: { serving }, seconds: 60, what: "the server does not begin to serve")
        let device = try attach()
        let made = describe(device, chain)
        do throws(ImageError) { try registry.write(made) } catch {
            do throws(ImageError) { try device.detach() } catch { log.error("\(error)") }
            throw error
        }
        record = made
        return made
    }

    private func attach() throws(ImageError) -> LoopDevice {
        let outcome = try LoopAttacher.start(diskPath, readOnly: config.readOnly, blockSize: config.blockSize)
        attaching = outcome
        var result: Result<LoopDevice, ImageError>?
        try turn(
            until: {
                result = result ?? outcome.take().first
                return result != nil
            }, seconds: 60, what: "the loop device does not come up")
        guard let result else { throw ImageError(.system, "the loop device does not come up") }
        attaching = nil
        let device = try result.get()
        if !device.usesDirectIO { log.warning("\(device.path) uses the page cache: this kernel grants no direct I/O") }
        return device
    }

    private func describe(_ device: LoopDevice, _ chain: ImageChain) -> MapRecord {
        var made = MapRecord(
            name: config.name, image: config.image, format: config.format.rawValue, snapshot: config.snapshot,
            size: chain.size,
            how: .loop, device: device.path, readOnly: config.readOnly, created: Int64(time(nil)))
        made.loops = [device.number]
        made.imageIdentity = chain.files.first?.identity
        if !config.readOnly { made.changesBefore = LoopLoss.changes(device.number) }
        made.mountPoint = diskPath
        made.supervisor = ProcessIdentity.current
        made.server = server?.identity
        return made
    }

    // MARK: watching

    private func watch() {
        guard let supervision else { return }
        while true {
            supervision.watch(self, milliseconds: deferredWanted ? 500 : -1)
            if supervision.stopWanted || deferredWanted {
                supervision.stopWanted = false
                if takeDown(deferred: deferredWanted) { return }
            }
        }
    }

    /// Waits until `done`, or throws. While the map is being made, a stop or the server's death ends that.
    private func turn(until done: () -> Bool, seconds: Int64, what: String) throws(ImageError) {
        guard let supervision else { throw ImageError(.system, what) }
        let isDone = supervision.wait(
            self, until: done, orElse: { failure != nil || supervision.stopWanted }, seconds: seconds, step: 1000)
        if isDone { return }
        if let failure { throw failure }
        throw ImageError(.system, supervision.stopWanted ? "stopped while the map was being made" : what)
    }

    var process: ChildProcess? { server?.process }
    /// The server's reports, and the attaching thread's result.
    var awaited: [Int32] { [hasHeardAll ? -1 : server?.report.raw ?? -1, attaching?.fd ?? -1] }

    func handle(_ isReady: [Bool]) {
        guard isReady[0], let error = hear() else { return }
        if record != nil { refuseServing(error) } else { failure = failure ?? error }
    }

    func handle(signal: Int32) { if signal == SIGUSR1 { deferredWanted = true } }

    // MARK: taking the map down

    /// Detaches the device, then takes down everything below it. False: it is in use and stays.
    private func takeDown(deferred: Bool) -> Bool {
        guard let record, let number = record.loops.first else { return true }
        do throws(ImageError) {
            guard try LoopOpeners.detach(number, of: record, deferred: deferred) else { return false }
        } catch {
            log.warning("\(error): not taken down")
            return false
        }
        abandon()
        finishRecord()
        return true
    }

    /// Removes the record, or, when something could not be written back, keeps it with the reason for the caller of
    /// `unmap`.
    private func finishRecord() {
        do throws(ImageError) {
            guard let trouble else { return try registry.remove(config.name) }
            record?.trouble = trouble
            if let record { try registry.write(record) }
        } catch { log.error("\(error)") }
    }

    /// Takes down everything but the loop device. The record stays.
    private func abandon() {
        // A dead server's changes of the mapping are only in the journal: it takes a server to write them to the image.
        if record != nil { startForWriteBack() }
        // The server ends when the connection does.
        LoopCleanup.endConnection(diskPath)
        if !hasWrittenBack() { trouble = "not everything could be written back" }
        connection = nil
        diskPath.unlink()
        chain = nil
    }

    /// Waits for the end of the server; true when the image has all that was written to the device.
    private func hasWrittenBack() -> Bool {
        for _ in 0..<3 {
            guard let (end, byItself) = endServer() else { return config.readOnly || record == nil }
            if config.readOnly || end == .exited(0) { return true }
            // A server that was killed meanwhile leaves its changes to the next one. After one that failed by itself,
            // or had to be killed because it was stuck, another would do the same.
            guard case .killed = end, byItself, record != nil else { return false }
            startForWriteBack()
        }
        return false
    }

    /// How the server ended, and whether it did so by itself, within the time it is given; nil when there is none.
    private func endServer() -> (ChildProcess.End, byItself: Bool)? {
        guard let process = server?.process else { return nil }
        defer { server = nil }
        var byItself = true
        if let identity = server?.identity {
            byItself = LoopCleanup.end(
                identity, timeout: config.readOnly ? 3000 : LoopCleanup.writerTimeout
            ) { [log] in log.notice("the server still writes back") }
        }
        do throws(Errno) { return (try process.wait(), byItself) } catch {
            log.debug("the server was gone already")
            return (.exited(255), byItself)
        }
    }

    /// Starts a server if there is none and the image may lack something.
    private func startForWriteBack() {
        guard server == nil, !config.readOnly, !hasGivenUp else { return }
        do throws(ImageError) { try startServer() } catch { log.error("\(error)") }
    }

    /// Detaches a loop device that was attached after the wait for it had ended. That cannot take long: the file is
    /// gone.
    private func detachLate() {
        guard let attaching else { return }
        var entry = pollfd(fd: attaching.fd, events: Int16(POLLIN), revents: 0)
        unsafe poll(&entry, 1, 10_000)
        guard case .success(let device) = attaching.take().first else { return }
        do throws(ImageError) { try device.detach() } catch { log.error("\(error)") }
    }

    /// For `list` and `unmap`: why nothing can be read or written any more.
    func recordFailure(_ text: String) {
        record?.failure = text
        rewriteRecord()
    }

    func rewriteRecord() {
        record?.server = server?.identity ?? record?.server
        guard let record else { return }
        do throws(ImageError) { try registry.write(record) } catch { log.error("\(error)") }
    }
}
