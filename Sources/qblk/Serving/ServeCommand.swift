// The command `qblk serve`: its options, the disks, and the time until a signal ends it. It follows the conventions for
// vhost-user back-end programs: it stays in the foreground, prints its capabilities when asked, and ends on SIGTERM.

public import ArgumentParser
import DiskTypes
import FuseExport
import Glibc
import ImageChain
import ImageOperations
import LinuxIO
import Logging
public import VhostUserBlk
import SystemPackage

extension PollMode: ExpressibleByArgument {}

extension CacheMode {
    var policy: CachePolicy {
        CachePolicy(isWriteback: self != .writethrough && self != .directsync, ignoresFlushes: self == .unsafe)
    }
}

enum DiscardChoice: String, ExpressibleByArgument, CaseIterable { case unmap, ignore }

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Serves images to virtual machines: a vhost-user-blk backend.",
        discussion: """
            Stays in the foreground until SIGTERM or SIGINT, then finishes what is in flight; it exits with 1 if something \
            that was written may be lost. SIGHUP looks whether raw images have grown, and tells the guests that do not know \
            the size; a guest that comes back is told without it. A front-end may go and come back at any time. A server of a QCOW2 \
            image that is killed loses nothing when it is started again on the same socket, as long as the VM lives. If the \
            image's name leads to another file by then, the VM does not get that file: the connection is closed, and the \
            log says why.

            A guest may move to another host while it runs (live migration), if both hosts see the image: a second \
            server with --incoming stands ready there. The first one gives the image back in the moment in which the \
            guest stops; should the guest go on here after all, it is taken again.

            Example:
              qblk serve disk.qcow2 --socket-path /run/disk.sock
              qblk serve --export image=a.qcow2,socket-path=a.sock --export image=b.raw,format=raw,socket-path=b.sock
            """)

    @OptionGroup var image: ImageOptions

    @Option(
        name: .long, help: ArgumentHelp("Socket to listen at.", valueName: "path"))
    var socketPath: FilePath?

    @Option(
        name: .long,
        help: ArgumentHelp("Inherited descriptor of a socket that listens or is connected.", valueName: "number"))
    var fd: Int32?

    @Flag(name: [.short, .long], help: "The guest cannot write.")
    var readOnly = false

    @Option(name: .long, help: ArgumentHelp("Virtqueues that a guest may have.", valueName: "count"))
    var queues = 16

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Threads that carry requests. Default: one a processor, at most 4. Each has a second one for long transfers in memory.",
            valueName: "count"))
    var workers: Int?

    @Option(
        name: .long,
        help: ArgumentHelp("How idle threads wait: off (sleep), adaptive or busy (never sleep).", valueName: "mode"))
    var poll = PollMode.adaptive

    @Option(
        name: .long,
        help: ArgumentHelp("none (O_DIRECT), writeback, writethrough, directsync or unsafe, as QEMU has them."))
    var cache = CacheMode.none

    @Option(name: .long, help: ArgumentHelp("What discards do: unmap or ignore.", valueName: "action"))
    var discard = DiscardChoice.unmap

    @Option(name: .long, help: ArgumentHelp("Logical block size of the disk.", valueName: "bytes"))
    var blockSize = 512

    @Option(name: .long, help: ArgumentHelp("Serial number, at most 20 bytes.", valueName: "text"))
    var serial = "qblk"

    @Option(name: .long, help: ArgumentHelp("Internal snapshot to serve, read-only.", valueName: "snapshot"))
    var snapshot: String?

    @Option(
        name: [.customLong("l2-cache")],
        help: ArgumentHelp("Memory for mapping tables of an image and its chain (k, M, G).", valueName: "size"))
    var l2Cache = ByteCount(OpenOptions().l2CacheLimit)

    @Flag(
        name: .long,
        help: "The guest is going to come from another host: its images are opened when it is here.")
    var incoming = false

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Another disk: image=PATH,socket-path=PATH or fd=N, then format=, read-only, queues=, serial=, snapshot=.",
            valueName: "disk"))
    var export: [String] = []

    @Option(name: .long, help: ArgumentHelp("The image, in the words of other backends.", valueName: "path"))
    var blkFile: FilePath?

    /// The working folder of `attach`, from which relative names behind `file:` count. Used by `attach`.
    @Option(name: .long, help: .hidden)
    var workingFolder: FilePath?

    /// What the image's files are, in JSON: they are open, as descriptors from 10 on. Used by `attach`.
    @Option(name: .long, help: .hidden)
    var openedFiles: String?

    @Flag(name: .long, help: "Log to the system's log instead of standard error.")
    var syslog = false

    @Flag(name: .long, help: "Print what this backend can do, in JSON, and end.")
    var printCapabilities = false

    @Flag(name: .long, help: "Print what to add to QEMU's command line for this disk, and end.")
    var printQemuArgs = false

    @Flag(name: .long, help: "Print what to add to a libvirt domain for this disk, and end.")
    var printLibvirtXml = false

    @Argument(help: "The image.")
    var path: FilePath?

    func validate() throws {
        guard (1...VhostUserServer.queueLimit).contains(queues) else {
            throw ValidationError("--queues takes 1 to \(VhostUserServer.queueLimit)")
        }
        guard workers.map({ (1...64).contains($0) }) ?? true else { throw ValidationError("--workers takes 1 to 64") }
        guard serial.utf8.count <= 20 else { throw ValidationError("--serial takes at most 20 bytes") }
    }

    func run() throws {
        if printCapabilities { return try Output.write(Self.capabilities) }
        if printQemuArgs || printLibvirtXml { return try advise() }
        let disks = try disks()
        // Before any thread is started: threads inherit that these signals are blocked.
        let signals = try SignalFD([SIGTERM, SIGINT, SIGHUP])
        if syslog {
            LoggingSystem.bootstrap { _ in SyslogHandler(program: "qblk") }
        } else {
            Logs.toStandardError(verbose: image.verbose > 0)
        }
        var options = ServerOptions()
        options.workers = workers ?? min(4, max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))))
        options.poll = poll
        let server = try VhostUserServer(options, log: Logger(label: "qblk serve"))
        do {
            for disk in disks { try add(disk, to: server) }
        } catch {
            server.stop()
            throw error
        }
        wait(signals, server)
        // The log has the error.
        guard server.stop() else { throw Failure() }
    }

    /// Prints what a VM that is not started yet needs for the disk.
    private func advise() throws {
        guard let socketPath else { throw ValidationError("say --socket-path: that is where the VM connects") }
        // A VM may run in another folder.
        let path = socketPath.absolute
        guard let full = path.name.text else {
            throw ImageError(.unsupported, "what is pasted must be UTF-8", advice: "name another socket", path: path)
        }
        // The VM gets as many queues as the server was told; QEMU's own choice would be one for each processor.
        let count = min(queues, 4)
        if printQemuArgs { try Output.write(ServeAdvice.qemuArguments(socket: full, queues: count)) }
        if printLibvirtXml { try Output.write(ServeAdvice.libvirtXML(socket: full, queues: count)) }
    }

    static let capabilities = """
        {
          "type": "block",
          "features": [
            "read-only",
            "blk-file"
          ]
        }

        """

    // MARK: disks

    /// The disk that the plain options name, and those of --export.
    private func disks() throws -> [ServedDisk] {
        var disks: [ServedDisk] = []
        guard path == nil || blkFile == nil else { throw ValidationError("the image is named twice") }
        if let path = path ?? blkFile {
            var disk = ServedDisk(path)
            disk.socketPath = socketPath
            disk.fd = fd
            disk.format = image.format
            disk.isReadOnly = readOnly
            disk.snapshot = snapshot
            disk.queues = queues
            disk.serial = serial
            disks.append(try disk.checked())
        } else if socketPath != nil || fd != nil {
            throw ValidationError("which image? Name it after the options")
        }
        for text in export { disks.append(try ServedDisk(parsing: text, queues: queues, serial: serial).checked()) }
        guard !disks.isEmpty else { throw ValidationError("name an image and --socket-path, or --export") }
        return disks
    }

    private func add(_ disk: ServedDisk, to server: VhostUserServer) throws {
        var open = image.open
        open.workingFolder = workingFolder
        open.format = try disk.requiredFormat()
        open.writable = !disk.isReadOnly
        open.direct = cache.isDirect
        open.blockSize = blockSize
        open.l2CacheLimit = l2Cache.bytes
        let inherited = try openedFiles.map(InheritedFiles.decoded)
        defer { withExtendedLifetime(inherited) {} }
        open.files = inherited?.files
        if let snapshot = disk.snapshot { open.snapshot = try SnapshotChoice.id(snapshot, in: disk.image, open) }
        let isIncoming = incoming && open.writable
        let chain = try isIncoming ? look(at: disk.image, open) : Self.openPatiently(disk.image, open)
        var options = ExportOptions(chain: chain, name: printable(disk.image))
        options.isIncoming = isIncoming
        // An image that is only read is shared with the other host.
        if open.writable {
            // The same files, whatever their names lead to when the guest comes or comes back.
            let files = try HeldFiles(chain, writable: true)
            options.reopen = { [open] () throws(ImageError) in
                var again = open
                again.files = files.files
                return try Self.openPatiently(disk.image, again)
            }
        }
        options.queueCount = disk.queues
        options.serial = disk.serial
        options.blockSize = blockSize
        options.cache = cache.policy
        options.discards = discard == .unmap
        try server.add(options, try disk.socket())
    }

    /// Opens the image while another process has it, for its size alone.
    private func look(at image: FilePath, _ options: OpenOptions) throws(ImageError) -> ImageChain {
        var options = options
        options.writable = false
        options.lock = false
        do throws(ImageError) { return try ImageChain.open(path: image, options: options) } catch {
            throw error.named(image)
        }
    }

    /// Opens the image, and waits a moment for the locks of a server that was killed: the kernel frees its ring after
    /// its end.
    private static func openPatiently(_ image: FilePath, _ options: OpenOptions) throws(ImageError) -> ImageChain {
        var tries = 0
        while true {
            do throws(ImageError) { return try ImageChain.open(path: image, options: options) } catch {
                tries += 1
                guard error.kind == .locked, tries < 40 else { throw error.named(image) }
                usleep(50_000)
            }
        }
    }

    // MARK: waiting

    private func wait(_ signals: borrowing SignalFD, _ server: VhostUserServer) {
        var entry = pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0)
        while !server.isOver {
            // Looked at from time to time: inherited connections end without a signal.
            guard unsafe Glibc.poll(&entry, 1, 500) > 0 else { continue }
            while let (signal, _) = signals.next() {
                guard signal == SIGHUP else { return }
                server.refreshSizes()
            }
        }
    }
}
