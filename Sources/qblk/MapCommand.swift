// Why this file exists: `qblk map`: an image in, the path of a block device out.

import ArgumentParser
import DiskTypes
import ImageChain
import MapRegistry

struct MapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map",
        abstract: "Makes a block device of an image.",
        discussion: """
            Prints the path of the device and returns once it can be read; what serves it goes on in the background.
            `qblk list` shows it, `qblk unmap` takes it down.

            Example:
              mount -o ro $(qblk map -r disk.qcow2) /mnt
            """)

    enum Way: String, ExpressibleByArgument, CaseIterable { case auto, dm, hybrid, ublk, loop }

    @OptionGroup var image: ImageOptions

    @Flag(name: [.customShort("r"), .long], help: "Refuse writes.")
    var readOnly = false

    @Option(name: .long, help: "Name of the map. The file's name without this.")
    var name: String?

    @Option(
        name: .long,
        help: "How: device-mapper, or a loop device on a FUSE file. auto takes the fastest that fits the image.")
    var via: Way = .auto

    @Option(name: .long, help: ArgumentHelp("Show this internal snapshot.", valueName: "id or name"))
    var snapshot: String?

    @Option(name: .long, help: "Queues of a ublk device.")
    var queues: Int?

    @Option(name: .long, help: "Threads that carry requests of a loop map.")
    var workers = 1

    @Option(
        name: .customLong("l2-cache"),
        help: ArgumentHelp("Memory for mapping tables at most.", valueName: "size"))
    var l2Cache = ByteCount(64 << 20)

    @Flag(name: .long, help: "Stay, and take the map down on SIGTERM or SIGINT.")
    var foreground = false

    @Argument(help: "The image.")
    var path: String

    func validate() throws {
        guard (1...16).contains(workers) else { throw ValidationError("--workers takes 1 to 16") }
        guard queues == nil || via == .ublk else { throw ValidationError("--queues is for --via ublk") }
    }

    func run() throws {
        var open = image.open
        open.snapshot = snapshot
        open.l2CacheLimit = l2Cache.bytes
        let job = MapJob(
            path: path, open: open, name: name, way: via, workers: workers, foreground: foreground)
        if !readOnly {
            Failure.warn("\(printable(path)): mapped read-only: this version does not write yet")
        }
        try job.run { record in try Output.write(record.device + "\n") }
    }
}
