// The command `qblk map`: its options, the choice of the way, and the device's name. DeviceMapperMap and FuseExport
// map.

import ArgumentParser
import DeviceMapperMap
import DiskTypes
import FuseExport
import Glibc
import ImageChain
import ImageOperations
import LinuxIO
import MapRegistry
import SystemPackage
import LinuxIO

struct MapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map",
        abstract: "Makes a block device of an image.",
        discussion: """
            Prints the device's path once it can be used: /dev/loopN with a server in the background or, with -r, \
            /dev/mapper/NAME by device-mapper, which leaves no process behind. What is written is on the disk after a \
            sync of the device, as with any disk, and after `qblk unmap`. Needs root. `qblk doctor` says what this \
            machine can do.

            Example:
              mount $(qblk map disk.qcow2) /mnt
              mount -o ro $(qblk map -r disk.qcow2) /mnt
            """)

    @OptionGroup var image: ImageOptions

    @Flag(name: [.short, .long], help: "No writes to the device.")
    var readOnly = false

    @Option(name: .long, help: ArgumentHelp("Name of the map. Default: the file's name.", valueName: "name"))
    var name: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "How: auto (with -r dm where it can express the image, else loop), dm, hybrid, ublk or loop.",
            valueName: "way"))
    var via: MapWay = .auto

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Internal snapshot to show, with -r: its id or name, or snapshot.id=ID, snapshot.name=NAME.",
            valueName: "snapshot"))
    var snapshot: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Logical block size of the device: 512, 1024, 2048 or 4096. Partition tables count in it.",
            valueName: "bytes"))
    var blockSize = 512

    @Option(name: .long, help: ArgumentHelp("Queues of the device (ublk only).", valueName: "count"))
    var queues: Int?

    @Option(
        name: .long, help: ArgumentHelp("Threads that carry requests, where there is a server.", valueName: "count"))
    var workers = 2

    @Option(
        name: [.customLong("l2-cache")],
        help: ArgumentHelp("Memory for mapping tables of the whole chain (k, M, G).", valueName: "size"))
    var l2Cache = ByteCount(OpenOptions().l2CacheLimit)

    @Flag(name: .long, help: "Stay, and take the map down on SIGTERM or SIGINT.")
    var foreground = false

    @Flag(name: .long, help: "Print JSON: the entry that list would show.")
    var json = false

    @Argument(help: "The image.")
    var path: FilePath

    func validate() throws {
        guard (1...64).contains(workers) else { throw ValidationError("--workers takes 1 to 64") }
        guard [512, 1024, 2048, 4096].contains(blockSize) else {
            throw ValidationError("--block-size takes 512, 1024, 2048 or 4096")
        }
        guard queues.map({ (1...64).contains($0) }) ?? true else { throw ValidationError("--queues takes 1 to 64") }
    }

    func run() throws {
        guard readOnly || snapshot == nil else {
            throw ImageError(
                .unsupported, "a snapshot cannot be written to", advice: "map it read-only (-r)", path: path)
        }
        guard readOnly || via != .dm else {
            throw ImageError(
                .unsupported, "device-mapper makes read-only maps", advice: "add -r, or leave --via dm away",
                path: path)
        }
        if let obstacle = Privileges.obstacleToDevices { throw ImageError(.system, obstacle, advice: "use sudo") }
        // The image is opened by its name several times; each time the name must lead to the file for which the way was
        // chosen.
        let pin = try FilePin(path)
        var options = image.open
        options.identity = pin.identity
        options.blockSize = blockSize
        options.format = try ImageFormat.required(image.format, path: path, readOnly: readOnly)
        options.writable = !readOnly
        options.takesWriterLock = false
        options.l2CacheLimit = l2Cache.bytes
        if let snapshot { options.snapshot = try SnapshotChoice.id(snapshot, in: path, options) }
        let choice =
            via == .auto ? try MapChoice.automatic(path: path, options: options) : MapChoice(way: via, reason: "")
        if image.verbose > 0, via == .auto { Notice.say("via \(choice.words): \(choice.reason)") }
        switch choice.way {
        case .dm: try mapByDeviceMapper(options)
        case .loop, .auto, nil: try mapByLoop(options)
        case .hybrid, .ublk:
            throw ImageError(
                .unsupported, "--via \(choice.words) is not there yet", advice: "use --via auto", path: path)
        }
        _ = consume pin
    }

    private func mapByDeviceMapper(_ open: OpenOptions) throws {
        var options = DMMapOptions(image: path, open: open)
        options.name = name
        let flag = foreground ? Interrupts.watch() : nil
        let record: MapRecord
        do throws(ImageError) { record = try DMMap.map(options) } catch { throw error.named(path) }
        try announce(record)
        guard let flag else { return }
        // No process serves a dm device; a command in the foreground only waits for its end.
        while !flag.isSet { usleep(100_000) }
        try DMMap.unmap(record, deferred: true)
        Interrupts.treatAsOrderly(SIGTERM)
    }

    private func mapByLoop(_ open: OpenOptions) throws {
        var options = LoopMapOptions(image: path, open: open)
        options.name = name
        options.readOnly = readOnly
        options.workers = workers
        options.foreground = foreground
        let shown = printable(path)
        options.notice = { Notice.say("\(shown): \($0)") }
        let wait = foreground
        if wait { Logs.toStandardError(verbose: image.verbose > 0) }
        var failure: (any Error)?
        let made: MapRecord
        do throws(ImageError) {
            made = try LoopExport.map(options) { record in
                guard wait else { return true }
                do { try say(record) } catch { failure = error }
                return failure == nil
            }
        } catch {
            throw error.named(path)
        }
        if let failure { throw failure }
        if !wait { try announce(made) }
    }

    /// Prints the device's name. When that fails, the device is removed again: no one would learn of it.
    private func announce(_ record: MapRecord) throws {
        do { try say(record) } catch {
            do throws(ImageError) { try UnmapCommand.takeDown(record, deferred: false) } catch {
                try UnmapCommand.takeDown(record, deferred: true)
            }
            throw error
        }
    }

    private func say(_ record: MapRecord) throws {
        let usual = MapName.suggested(forImage: record.how == .dm ? path : record.image)
        if name == nil, record.name != usual {
            Notice.say(
                "\(printable(path)): a map of another image has the name '\(usual)': this one is '\(record.name)'")
        }
        PartitionNote.sayIfNeeded(record, blockSize: blockSize)
        do { try Output.write((json ? MapEntry(record).json.text : record.device) + "\n") } catch is BrokenPipe {
            throw Failure("standard output cannot be written: \(errorText(EPIPE)): not mapped")
        }
    }
}
