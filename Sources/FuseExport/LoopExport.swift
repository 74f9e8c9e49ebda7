// Why this file exists: the loop door as the command line sees it: map, unmap, and the two hidden verbs that carry a
// map on after the shell is gone.
public import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Logging
public import MapRegistry
import SystemPackage

/// Makes loop devices of images and takes them down.
public enum LoopExport {
    /// `qblk __loop-supervisor CONFIG`: watches over one map.
    public static let supervisorVerb = "__loop-supervisor"
    /// `qblk __loop-server CONFIG`: carries the requests of one map.
    public static let serverVerb = "__loop-server"

    /// Makes a loop device; returns when it can be read. Its processes, where it needs any, go on by themselves.
    ///
    /// With `foreground` the calling process is the supervisor: `ready` is called with the record, and the call returns
    /// after SIGTERM or SIGINT took the map down.
    public static func map(
        _ options: LoopMapOptions, ready: (MapRecord) -> Void = { _ in }
    ) throws(ImageError) -> MapRecord {
        let registry = options.registry
        try cleanUp(registry)
        let image: String
        do throws(Errno) { image = try Filesystem.realPath(options.image) } catch {
            throw ImageError(.system, "cannot open: \(errorText(error.rawValue))", path: options.image)
        }
        var open = options.open
        open.writable = !options.readOnly
        open.carriesWrites = false
        var chain: ImageChain?
        do throws(ImageError) { chain = try ImageChain.open(path: image, options: open) } catch {
            throw error.named(options.image)
        }
        let format = chain?.layers.first?.format ?? .raw
        let reservation = try registry.create(options.name ?? MapName.suggested(forImage: image))
        do throws(ImageError) {
            if options.allowPlain, let chain, PlainLoop.suits(chain) {
                return try mapPlain(chain, image, reservation, options, ready)
            }
            // Its locks are the supervisor's from here on, which of two writers only one can have.
            chain = nil
            let config = LoopConfig(
                options, name: reservation.name, image: image, format: format, registry: registry)
            return try options.foreground ? supervise(config, reservation, ready) : startSupervisor(config)
        } catch {
            try LoopCleanup.takeDownUnrecorded(registry.folder(of: reservation.name) + "/disk")
            try reservation.remove()
            throw error.named(options.image)
        }
    }

    /// Takes a map down. A device in use is refused; with `deferred` it goes as soon as nobody uses it.
    public static func unmap(
        _ record: MapRecord, deferred: Bool = false, registry: MapRegistry = MapRegistry()
    ) throws(ImageError) {
        let reservation = try registry.lock(record.name)
        guard var current = try registry.record(of: record.name) else { return }
        let supervised = current.supervisor.map(\.isAlive) ?? false
        guard supervised else {
            if !deferred, LoopCleanup.isServed(current) { try LoopCleanup.flush(current) }
            if try LoopCleanup.clean(current, deferred: deferred) {
                try reservation.remove()
                return try tell(current.trouble, unless: deferred)
            }
            current.deferred = true
            return try reservation.write(current)
        }
        if !deferred { try LoopCleanup.flush(current) }
        for number in current.loops where try !LoopUsers.detach(number, of: current, deferred: deferred) {
            // The supervisor waits for the last user, then takes down the rest.
            current.deferred = true
            try reservation.write(current)
            return signal(current.supervisor, SIGUSR1)
        }
        signal(current.supervisor, SIGTERM)
        if let supervisor = current.supervisor {
            LoopCleanup.end(
                supervisor, patience: 10_000 + (current.readOnly ? 0 : LoopCleanup.writerPatience))
        }
        let trouble = try registry.record(of: record.name)?.trouble
        _ = try LoopCleanup.clean(current, deferred: true)
        try reservation.remove()
        try tell(trouble)
    }

    private static func tell(_ trouble: String?, unless silent: Bool = false) throws(ImageError) {
        guard let trouble, !silent else { return }
        throw ImageError(.system, trouble, advice: "the system's log says why")
    }

    /// Takes down what crashed maps left behind: called by every `map`, and by `unmap --all`.
    public static func cleanUp(_ registry: MapRegistry = MapRegistry()) throws(ImageError) {
        try registry.sweep { folder throws(ImageError) in
            try LoopCleanup.takeDownUnrecorded(folder + "/disk")
        }
        for record in try registry.all() where record.how == .loop {
            let supervised = record.supervisor.map(\.isAlive) ?? false
            // A server goes on without its supervisor, and a plain loop device without anybody.
            let isLost = record.health == .dead || !LoopCleanup.isServed(record)
            if isLost && !supervised { try unmap(record, deferred: true, registry: registry) }
        }
    }

    /// Runs a hidden verb if `arguments` (with the program's name first) ask for one: its exit code. nil: not one of
    /// ours. Call it first thing in `main`, before anything parses arguments.
    public static func runHiddenVerb(_ arguments: [String]) -> Int32? {
        guard arguments.count > 1 else { return nil }
        switch arguments[1] {
        case supervisorVerb: return runSupervisor(Array(arguments.dropFirst(2)))
        case serverVerb: return runServer(Array(arguments.dropFirst(2)))
        default: return nil
        }
    }

    /// The supervisor's whole life: its exit code.
    public static func runSupervisor(_ arguments: [String]) -> Int32 {
        withConfig(arguments) { config, log in
            Supervisor(config, log: log).run { outcome in
                let report: LoopReport =
                    switch outcome {
                    case .success(let record): LoopReport(record)
                    case .failure(let error): LoopReport(error)
                    }
                defer { close(ServerProcess.reportNumber) }
                return ReportPipe.send(report, to: ServerProcess.reportNumber)
            }
        }
    }

    /// The server's whole life: its exit code.
    public static func runServer(_ arguments: [String]) -> Int32 { withConfig(arguments, ServerProcess.live) }

    // MARK: steps

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
        _ chain: ImageChain, _ image: String, _ reservation: borrowing MapReservation, _ options: LoopMapOptions,
        _ ready: (MapRecord) -> Void
    ) throws(ImageError) -> MapRecord {
        let readOnly = options.readOnly
        let record = try PlainLoop.map(
            chain, name: reservation.name, image: image, readOnly: readOnly
        ) { record throws(ImageError) in try reservation.write(record) }
        if options.foreground {
            reservation.letGo()
            ready(record)
            try PlainLoop.stay(record, log: Logger(label: "qblk"))
            try reservation.registry.remove(record.name)
        }
        return record
    }

    private static func startSupervisor(_ config: LoopConfig) throws(ImageError) -> MapRecord {
        let pipe = try ReportPipe()
        let inherit = [ChildProcess.Inheritance(fd: pipe.writing.raw, as: ServerProcess.reportNumber)]
        let child: ChildProcess
        do throws(Errno) {
            child = try ChildProcess.spawn(
                config.executable, ["qblk", supervisorVerb, try encoded(config)], inherit: inherit, options: .daemon)
        } catch {
            throw ImageError(.system, "cannot start the supervisor: \(errorText(error.rawValue))")
        }
        let reading = pipe.keepReading()
        let report = try ReportPipe.receive(reading.raw)
        if let record = report?.record { return record }
        do throws(Errno) { _ = try child.wait() } catch {}
        throw report?.thrown ?? ImageError(.system, "the supervisor died while it made the map")
    }

    private static func encoded(_ config: LoopConfig) throws(Errno) -> String {
        do throws(ImageError) { return try config.encoded() } catch { throw .invalidArgument }
    }

    private static func supervise(
        _ config: LoopConfig, _ reservation: borrowing MapReservation, _ ready: (MapRecord) -> Void
    ) throws(ImageError) -> MapRecord {
        // A copy of the right to let go: closures cannot capture what is borrowed.
        let letGo = reservation.lettingGo
        var outcome: Result<MapRecord, ImageError> = .failure(ImageError(.system, "the map was not made"))
        let code = Supervisor(config, log: Logger(label: "qblk")).run {
            outcome = $0
            if case .success(let record) = $0 {
                letGo()
                ready(record)
            }
            return true
        }
        let record = try outcome.get()
        guard code == 0 else {
            try MapRegistry(folder: config.registryFolder).remove(config.name)
            throw ImageError(.system, "not everything could be written back")
        }
        return record
    }

    private static func signal(_ process: ProcessIdentity?, _ number: Int32) {
        do throws(Errno) { _ = try process?.kill(number) } catch {
            // Gone meanwhile: what comes next looks for itself.
        }
    }
}
