// Plugs a disk into a running VM, in steps of which any may fail, and takes it out again when the guest has released
// it. At the end either all of it is there and recorded, or nothing is.
public import DiskTypes
import Glibc
import ImageChain
import LinuxIO
public import MapRegistry
import QEMUMonitor
public import SystemPackage

/// Plugs disks into running VMs and takes them out.
public enum HotPlug {
    /// `qblk __disk-supervisor CONFIG`: supervises the server of one disk.
    public static let supervisorVerb = "__disk-supervisor"

    /// Runs the hidden verb if `arguments` (with the program's name first) ask for it, and returns its exit code; nil:
    /// they do not. To be called before arguments are parsed.
    public static func runHiddenVerb(_ arguments: [String]) -> Int32? {
        guard arguments.count == 3, arguments[1] == supervisorVerb else { return nil }
        return SupervisorConfig.decoded(arguments[2]).map { DiskSupervisor($0).run() } ?? 2
    }

    // MARK: attach

    /// Plugs an image or a block device into a VM; returns when the VM has it. Throws the errors of opening the image,
    /// `.reference` for an id that the VM has, and the errors of a VM that is not there, is busy, or cannot take the
    /// disk; nothing of the disk is left then.
    public static func attach(_ options: AttachOptions) throws(ImageError) -> AttachmentRecord {
        let source = try DiskSource(options)
        let qmp = try monitorSocket(options.qmp)
        if let id = options.id { try PluggedDisk.check(id) }
        let monitor = try QEMUMonitor(qmp)
        try AttachmentCleanup.sweep(options.registry, monitor)
        let id = try freeID(options.id, monitor)
        if !source.isDevice { try monitor.requireSharedMemory() }
        let queues: Int
        if let wanted = options.queues { queues = wanted } else { queues = min(max(try monitor.processors(), 1), 4) }
        let disk = PluggedDisk(id: id, bus: try monitor.busForOneMore(options.bus), queues: queues)
        let lock = try options.registry.create(id)
        var record = AttachmentRecord(
            id: id, qmp: qmp, image: source.path, format: source.format, size: source.size,
            how: source.isDevice ? .virtioBlk : .vhostUser, readOnly: options.readOnly, created: Int64(time(nil)))
        record.snapshot = options.open.snapshot
        record.machine = machine(monitor)
        do throws(ImageError) {
            // Written before anything is made, so that whatever a crash leaves is found by it.
            try options.registry.write(record, lock.key)
            try plug(disk, source, options, monitor, &record, key: lock.key)
            record.isPlugged = true
            try options.registry.write(record, lock.key)
        } catch {
            AttachmentCleanup.undo(record, lock.key, options.registry, monitor)
            throw error
        }
        return record
    }

    private static func plug(
        _ disk: PluggedDisk, _ source: DiskSource, _ options: AttachOptions, _ monitor: QEMUMonitor,
        _ record: inout AttachmentRecord, key: String
    ) throws(ImageError) {
        let serial = options.serial ?? String(disk.id.prefix(20))
        if source.isDevice {
            return try monitor.plugDevice(disk, path: source.path, readOnly: options.readOnly, serial: serial)
        }
        let socket = options.registry.folder(of: key).appending("disk.sock")
        guard let files = source.files else { throw ImageError(.system, "the image's files are not open") }
        record.socket = socket
        record.serveArguments = serveArguments(disk, source, options, socket: socket, serial: serial)
        record.files = files.known.map(\.identity)
        let config = SupervisorConfig(
            key: key, registryFolder: options.registry.folder, executable: options.executable,
            arguments: try served(record, files), socket: socket, user: monitor.peer?.user ?? 0,
            group: monitor.peer?.group ?? 0, machine: record.machine, files: files.known)
        try start(config, files, &record)
        try options.registry.write(record, key)
        try monitor.plugServed(disk, socket: socket, packed: options.packed)
    }

    private static func serveArguments(
        _ disk: PluggedDisk, _ source: DiskSource, _ options: AttachOptions, socket: FilePath, serial: String
    ) -> [FileName] {
        var words: [FileName] = [
            "serve", source.path.name, "--socket-path", socket.name, "--serial", FileName(argument: serial),
            "--queues", FileName("\(disk.queues)"),
        ]
        if let format = options.open.format { words += ["--format", FileName(format.rawValue)] }
        if options.readOnly { words.append("--read-only") }
        if let snapshot = options.open.snapshot { words += ["--snapshot", FileName(argument: snapshot)] }
        // The server has another working folder.
        if let here = options.open.workingFolder ?? FilePath.current { words += ["--working-folder", here.name] }
        for folder in options.open.allowedFolders { words += ["--allow-path", folder.realOrAbsolute.name] }
        return words + options.serveArguments.map { FileName(argument: $0) }
    }

    /// The server's arguments, with the description of the files whose descriptors it inherits.
    static func served(_ record: AttachmentRecord, _ files: HeldFiles) throws(ImageError) -> [FileName] {
        (record.serveArguments ?? []) + ["--opened-files", FileName(try RecordCoding.message(files.known))]
    }

    /// Starts a supervisor, which starts the server; returns when the server answers. Throws `.system` with what the
    /// server said.
    static func start(
        _ config: SupervisorConfig, _ files: HeldFiles, _ record: inout AttachmentRecord
    ) throws(ImageError) {
        let pipe: StatusPipe
        do throws(Errno) { pipe = try StatusPipe() } catch {
            throw ImageError(.system, "cannot make a pipe: \(errorText(error.rawValue))")
        }
        let child: ChildProcess
        do throws(Errno) {
            let text: String
            do throws(ImageError) { text = try config.encoded() } catch { throw .invalidArgument }
            child = try ChildProcess.spawn(
                config.executable, ["qblk", FileName(supervisorVerb), FileName(text)],
                inherit: [ChildProcess.Inheritance(fd: pipe.writing.raw, as: SupervisorReport.descriptor)]
                    + files.inheritances(from: SupervisorConfig.firstFile),
                options: .daemon)
        } catch {
            throw ImageError(.system, "cannot start the supervisor: \(errorText(error.rawValue))")
        }
        record.supervisor = child.identity
        let reading = pipe.keepReading()
        switch SupervisorReport.receive(reading.raw) {
        case .serves(let server)?: record.server = server
        case .failed(let reason)?:
            do throws(Errno) { _ = try child.wait() } catch {}
            // The server says of its image what this process would say; anything else is about the server.
            let ofImage = printable(record.image) + ": "
            let what =
                reason.hasPrefix(ofImage)
                ? String(reason.dropFirst(ofImage.count)) : "the server did not start: \(reason)"
            throw ImageError(.system, what)
        case nil:
            do throws(Errno) { _ = try child.wait() } catch {}
            throw ImageError(.system, "the supervisor died while the server started")
        }
    }

    private static func freeID(_ wanted: String?, _ monitor: QEMUMonitor) throws(ImageError) -> String {
        if let wanted {
            guard try !monitor.hasDevice(wanted) else {
                throw ImageError(
                    .reference, "this VM has a device named '\(wanted)'", advice: "choose another --id",
                    path: monitor.path)
            }
            return wanted
        }
        var number = 0
        while try monitor.hasDevice("qblk\(number)") { number += 1 }
        return "qblk\(number)"
    }

    /// The VM's process; nil when the socket belongs to another, such as a manager that gives it to QEMU.
    private static func machine(_ monitor: QEMUMonitor) -> ProcessIdentity? {
        guard let pid = monitor.peer?.pid, pid > 0,
            let name = Filesystem.readIfThere("/proc/\(pid)/comm"), name.hasPrefix("qemu")
        else { return nil }
        return ProcessIdentity(pid: pid)
    }

    // MARK: detach

    /// Takes a disk out of a VM and ends what served it. `timeout`: milliseconds for the guest to release it. False:
    /// the VM had ended already, and what was left of the disk has been cleaned up. Throws `.notFound` for an unknown
    /// id, `.locked` while another qblk process works on the disk, and `.system` when what was written last may be
    /// lost.
    public static func detach(
        _ id: String, qmp path: FilePath, timeout: Int64, registry: AttachmentRegistry = AttachmentRegistry()
    ) throws(ImageError) -> Bool {
        let qmp = path.realOrAbsolute
        guard let key = try key(of: id, qmp, registry) else { throw try unknown(id, qmp, registry) }
        guard let lock = try registry.lock(key, timeout: 10_000) else {
            throw ImageError(
                .locked, "another qblk is working on it", advice: "try again when it is done", path: FileName(id))
        }
        guard let record = try registry.record(lock.key) else { return true }
        let isGone = record.machine.map { !$0.isAlive } ?? QEMUMonitor.isGone(qmp)
        if isGone {
            try AttachmentCleanup.takeDown(record, lock.key, registry)
            return false
        }
        let monitor = try QEMUMonitor(qmp)
        if try monitor.hasDevice(id) { try monitor.unplug(id, timeout: timeout) }
        try monitor.removeBehind(id)
        let trouble = try AttachmentCleanup.takeDown(record, lock.key, registry)
        try AttachmentCleanup.sweep(registry, monitor)
        if let trouble {
            throw ImageError(
                .system, "the disk is out of the VM, but what was written last may be lost: \(trouble)",
                advice: "the system's log says more", path: FileName(id))
        }
        return true
    }

    private static func key(
        of id: String, _ qmp: FilePath, _ registry: AttachmentRegistry
    ) throws(ImageError) -> String? {
        for key in try registry.keys() {
            if let record = try registry.record(key), record.id == id, record.qmp == qmp { return key }
        }
        return nil
    }

    /// The error for an unknown id, or for a VM that is not there.
    private static func unknown(
        _ id: String, _ qmp: FilePath, _ registry: AttachmentRegistry
    ) throws(ImageError) -> ImageError {
        guard !QEMUMonitor.isGone(qmp) else {
            return ImageError(
                .notFound, "is not attached, and no VM is at \(qmp)", advice: "`qblk list` says what is",
                path: FileName(id))
        }
        let monitor = try QEMUMonitor(qmp)
        let what =
            try monitor.hasDevice(id)
            ? "is a device of this VM that qblk did not attach" : "is not attached to this VM"
        try AttachmentCleanup.sweep(registry, monitor)
        return ImageError(.notFound, what, advice: "`qblk list` says what is", path: FileName(id))
    }

    /// Where the VM's monitor is, without links: the record keeps it.
    private static func monitorSocket(_ path: FilePath) throws(ImageError) -> FilePath {
        do throws(Errno) { return try path.realPath() } catch {
            throw ImageError(
                error == .noSuchFileOrDirectory ? .notFound : .system,
                "cannot reach the VM: \(errorText(error.rawValue))",
                advice: "start it with -qmp unix:\(path),server=on,wait=off", path: path)
        }
    }
}
