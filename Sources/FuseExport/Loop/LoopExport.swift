// Loop devices as the command line makes them: map, unmap, and the two hidden verbs by which a map's processes start.
public import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Logging
public import MapRegistry
import SystemPackage

/// Makes loop devices of images and takes them down.
public enum LoopExport {
    /// `qblk __loop-supervisor CONFIG`: supervises one map.
    public static let supervisorVerb = "__loop-supervisor"
    /// `qblk __loop-server CONFIG`: serves the requests of one map.
    public static let serverVerb = "__loop-server"

    /// Makes a loop device; returns when it can be read. The processes that it needs, if any, go on by themselves.
    /// Throws the errors of opening the image and of names that are taken, and `.system` when the device cannot be
    /// made; nothing of the map is left then.
    ///
    /// With `foreground` the calling process is the supervisor: `ready` is called with the record, and the call returns
    /// after SIGTERM or SIGINT took the map down. False from `ready`: the caller cannot use the map, and it is taken
    /// down at once.
    public static func map(
        _ options: LoopMapOptions, ready: (MapRecord) -> Bool = { _ in true }
    ) throws(ImageError) -> MapRecord {
        let registry = options.registry
        let hasCleaned = try cleanUp(registry, notice: options.notice)
        let image: FilePath
        do throws(Errno) { image = try options.image.realPath() } catch {
            throw ImageError(.system, "cannot open: \(errorText(error.rawValue))", path: options.image)
        }
        var open = options.open
        open.writable = !options.readOnly
        open.takesWriterLock = false
        // Opened by the name that was given, not by the file's real one: names in the header count from the given
        // name's folder, as with every other command.
        open.identity = Filesystem.identity(of: image)
        let chain: ImageChain
        do throws(ImageError) { chain = try openLocked(options.image, open, timeout: hasCleaned ? 3000 : 0) } catch {
            throw error.named(options.image)
        }
        let reservation = try reserve(image, chain, options)
        do throws(ImageError) {
            if options.allowPlain, PlainLoop.suits(chain, blockSize: open.blockSize) {
                return try mapPlain(chain, image, reservation, options, ready)
            }
            try requireWholeBlocks(chain, open.blockSize)
            // From here on no file is opened by its name: the supervisor goes on with these, and with their locks.
            let config = LoopConfig(options, name: reservation.name, image: image, chain: chain)
            return try options.foreground
                ? supervise(config, chain, reservation, options, ready) : startSupervisor(config, chain, options)
        } catch {
            try LoopCleanup.takeDownUnrecorded(registry.folder(of: reservation.name).appending("disk"))
            try reservation.remove()
            throw error.named(options.image)
        }
    }

    /// Takes a map down. A device in use is an error (`.locked`); with `deferred` it is taken down when its last user
    /// closes it. `notice` is called with what a wait of more than a second is for.
    ///
    /// Throws `.system`, after the map is gone, when something that was written to it may not be in the image.
    public static func unmap(
        _ record: MapRecord, deferred: Bool = false, registry: MapRegistry = MapRegistry(),
        notice: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(ImageError) {
        if let loss = try takeDown(record, deferred: deferred, registry, notice) { throw loss }
    }

    /// Nil, or, when the map is gone, the error that says what was lost with it.
    private static func takeDown(
        _ record: MapRecord, deferred: Bool, _ registry: MapRegistry, _ notice: @escaping @Sendable (String) -> Void
    ) throws(ImageError) -> ImageError? {
        let reservation = try registry.lock(record.name)
        guard var current = try registry.record(of: record.name) else { return nil }
        let supervised = current.supervisor.map(\.isAlive) ?? false
        guard supervised else {
            if !deferred, LoopCleanup.isServed(current) { try LoopCleanup.flush(current, notice) }
            let loss = LoopLoss.find(current)
            if try LoopCleanup.clean(current, deferred: deferred, notice) {
                try reservation.remove()
                return LoopLoss.givenUp(current) ?? loss ?? self.loss(current.trouble)
            }
            current.deferred = true
            try reservation.write(current)
            return nil
        }
        if !deferred { current = try LoopCleanup.flushOrGivenUp(current, registry, notice) }
        for number in current.loops where try !LoopOpeners.detach(number, of: current, deferred: deferred) {
            // The supervisor waits for the last user, then takes down the rest.
            current.deferred = true
            try reservation.write(current)
            signal(current.supervisor, SIGUSR1)
            return nil
        }
        signal(current.supervisor, SIGTERM)
        var hasEnded = true
        if let supervisor = current.supervisor {
            let ending = current
            hasEnded = WaitNotice.during(LoopCleanup.waitText(ending), notice) {
                LoopCleanup.end(supervisor, timeout: 10_000 + (ending.readOnly ? 0 : LoopCleanup.writerTimeout))
            }
        }
        let end = try registry.record(of: record.name)
        var trouble = end?.trouble
        if !hasEnded, !current.readOnly { trouble = trouble ?? "not everything could be written back" }
        _ = try LoopCleanup.clean(current, deferred: true, notice)
        try reservation.remove()
        return LoopLoss.givenUp(end ?? current) ?? loss(trouble)
    }

    private static func loss(_ trouble: String?) -> ImageError? {
        trouble.map { ImageError(.system, $0, advice: "the system's log says why") }
    }

    /// Takes down what crashed maps left behind, as every `map` and `unmap --all` do. `notice` is called with a line
    /// for each map that loses something. Returns whether any were taken down.
    @discardableResult public static func cleanUp(
        _ registry: MapRegistry = MapRegistry(), notice: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(ImageError) -> Bool {
        var hasCleaned = false
        try registry.sweep { folder throws(ImageError) in
            try LoopCleanup.takeDownUnrecorded(folder.appending("disk"))
        }
        for record in try registry.all() where record.how == .loop {
            let supervised = record.supervisor.map(\.isAlive) ?? false
            // A server goes on without its supervisor, and a plain loop device without any process.
            let isLost = record.health == .dead || !LoopCleanup.isServed(record)
            guard isLost, !supervised else { continue }
            hasCleaned = true
            if let loss = try takeDown(record, deferred: true, registry, notice) {
                notice("the map '\(record.name)' of \(printable(record.image)) is taken down: \(loss)")
            }
        }
        return hasCleaned
    }

    /// Runs the hidden verb that `arguments` (with the program's name first) ask for, and returns its exit code; nil:
    /// they ask for none. To be called first in `main`, before arguments are parsed.
    public static func runHiddenVerb(_ arguments: [String]) -> Int32? {
        guard arguments.count > 1 else { return nil }
        switch arguments[1] {
        case supervisorVerb: return runSupervisor(Array(arguments.dropFirst(2)))
        case serverVerb: return runServer(Array(arguments.dropFirst(2)))
        default: return nil
        }
    }

    /// Runs a supervisor to its end; returns its exit code. `arguments`: the configuration.
    public static func runSupervisor(_ arguments: [String]) -> Int32 {
        withConfig(arguments) { config, log in
            let supervisor = Supervisor(config, log: log) { () throws(ImageError) in
                try config.openForLocks(from: ServerProcess.firstDevice)
            }
            return supervisor.run { outcome in
                let report: LoopReport =
                    switch outcome {
                    case .success(let record): LoopReport(record, notes: supervisor.notes)
                    case .failure(let error): LoopReport(error)
                    }
                defer { close(ServerProcess.reportNumber) }
                return report.send(to: ServerProcess.reportNumber)
            }
        }
    }

    /// Runs a server to its end; returns its exit code. `arguments`: the configuration.
    public static func runServer(_ arguments: [String]) -> Int32 { withConfig(arguments, ServerProcess.live) }

    // MARK: steps

    /// Opens the image. The io_urings of a killed server end after its process, and the image is locked until then:
    /// waits for that, for at most `timeout` milliseconds.
    private static func openLocked(
        _ image: FilePath, _ options: OpenOptions, timeout: Int
    ) throws(ImageError) -> ImageChain {
        var waited = 0
        while true {
            do throws(ImageError) { return try ImageChain.open(path: image, options: options) } catch {
                guard error.kind == .locked, waited < timeout else { throw error }
            }
            usleep(50_000)
            waited += 50
        }
    }

    /// The name that the user gave, or one that no map of another file has.
    private static func reserve(
        _ image: FilePath, _ chain: ImageChain, _ options: LoopMapOptions
    ) throws(ImageError) -> MapReservation {
        if let name = options.name { return try options.registry.create(name) }
        return try options.registry.create(
            suggested: MapName.suggested(forImage: image), for: chain.files[0].identity)
    }

    /// Throws when the disk's size is no whole number of blocks: the loop driver would not show the rest.
    private static func requireWholeBlocks(_ chain: ImageChain, _ blockSize: Int) throws(ImageError) {
        guard chain.size % UInt64(blockSize) != 0 else { return }
        throw .unsupported(
            "the disk has \(chain.size) bytes, which are no whole blocks of \(blockSize)",
            advice: "use a smaller --block-size, or resize the image")
    }

    private static func withConfig(_ arguments: [String], _ body: (LoopConfig, Logger) -> Int32) -> Int32 {
        let log = Logger(label: "qblk") { _ in SyslogHandler(program: "qblk") }
        do throws(ImageError) {
            return body(try LoopConfig.decoded(arguments.first ?? ""), log)
        } catch {
            log.error("\(error)")
            return 2
        }
    }

    private static func mapPlain(
        _ chain: ImageChain, _ image: FilePath, _ reservation: borrowing MapReservation, _ options: LoopMapOptions,
        _ ready: (MapRecord) -> Bool
    ) throws(ImageError) -> MapRecord {
        let readOnly = options.readOnly
        let record = try PlainLoop.map(
            chain, name: reservation.name, image: image, readOnly: readOnly, blockSize: options.open.blockSize
        ) { record throws(ImageError) in try reservation.write(record) }
        if options.foreground {
            reservation.release()
            if ready(record) {
                try PlainLoop.stay(record, log: Logger(label: "qblk"))
            } else {
                _ = try LoopCleanup.clean(record, deferred: true)
            }
            try reservation.registry.remove(record.name)
        }
        return record
    }

    private static func startSupervisor(
        _ config: LoopConfig, _ chain: ImageChain, _ options: LoopMapOptions
    ) throws(ImageError) -> MapRecord {
        let pipe = try LoopReport.pipe()
        var inherit = [ChildProcess.Inheritance(fd: pipe.writing.raw, as: ServerProcess.reportNumber)]
        for (index, file) in chain.files.enumerated() {
            inherit.append(
                ChildProcess.Inheritance(fd: file.fd, as: ServerProcess.firstDevice + Int32(truncatingIfNeeded: index)))
        }
        let child: ChildProcess
        do throws(Errno) {
            child = try ChildProcess.spawn(
                config.executable, ["qblk", FileName(supervisorVerb), FileName(try encoded(config))], inherit: inherit,
                options: .daemon)
        } catch {
            throw ImageError(.system, "cannot start the supervisor: \(errorText(error.rawValue))")
        }
        let reading = pipe.keepReading()
        let report = try LoopReport.receive(reading.raw)
        for note in report?.notes ?? [] { options.notice(note) }
        if let record = report?.record { return record }
        do throws(Errno) { _ = try child.wait() } catch {}
        throw report?.thrown ?? ImageError(.system, "the supervisor died while it made the map")
    }

    private static func encoded(_ config: LoopConfig) throws(Errno) -> String {
        do throws(ImageError) { return try config.encoded() } catch { throw .invalidArgument }
    }

    private static func supervise(
        _ config: LoopConfig, _ chain: ImageChain, _ reservation: borrowing MapReservation, _ options: LoopMapOptions,
        _ ready: (MapRecord) -> Bool
    ) throws(ImageError) -> MapRecord {
        // A copy of `release`: closures cannot capture what is borrowed.
        let release = reservation.releasing
        var outcome: Result<MapRecord, ImageError> = .failure(ImageError(.system, "the map was not made"))
        var isWanted = true
        let supervisor = Supervisor(config, log: Logger(label: "qblk")) { () throws(ImageError) in chain }
        let code = supervisor.run {
            outcome = $0
            guard case .success(let record) = $0 else { return true }
            for note in supervisor.notes { options.notice(note) }
            release()
            isWanted = ready(record)
            return isWanted
        }
        let record = try outcome.get()
        guard code == 0 || !isWanted else {
            try MapRegistry(folder: config.registryFolder).remove(config.name)
            throw ImageError(.system, "not everything could be written back")
        }
        return record
    }

    private static func signal(_ process: ProcessIdentity?, _ number: Int32) {
        do throws(Errno) { _ = try process?.kill(number) } catch {
            // The process is gone; the next step looks for itself whether it is.
        }
    }
}
