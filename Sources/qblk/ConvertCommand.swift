// Why this file exists: `qblk convert`.

import ArgumentParser
import DiskTypes
import ImageChain
import ImageOperations

struct ConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract: "Writes an image out as a raw file or onto a block device.",
        discussion: """
            Takes qemu-img convert's options. Damage is an error that names the place; nothing that cannot be read \
            becomes zeros, unless --salvage says so. An error leaves the output as far as it came.

            Example:
              qblk convert -O raw disk.qcow2 disk.raw
              qblk convert -n -O raw -l before-upgrade disk.qcow2 /dev/vg0/disk
            """)

    @OptionGroup var image: ImageOptions

    @Option(
        name: [.customShort("O"), .long], help: ArgumentHelp("Format to write: raw so far.", valueName: "format"))
    var outputFormat: ImageFormat = .raw

    @Option(
        name: [.customShort("l"), .long],
        help: ArgumentHelp(
            "Internal snapshot to read: its id or name, or snapshot.id=ID, snapshot.name=NAME.", valueName: "snapshot"))
    var snapshot: String?

    @Flag(
        name: [.customShort("n"), .long], help: "Write into what is there: a device, or a file that is large enough.")
    var noCreate = false

    @Flag(name: .long, help: "With -n: what is there reads as zeros already.")
    var targetIsZero = false

    @Option(
        name: [.customShort("S"), .long],
        help: ArgumentHelp("Leave runs of zeros of this length out (k, M, G); 0 writes everything.", valueName: "size"))
    var sparse = ByteCount(4096)

    @Option(name: [.customShort("m"), .long], help: ArgumentHelp("Threads, 1 to 16.", valueName: "count"))
    var workers = ConvertOptions.defaultWorkers

    @Flag(name: .short, help: ArgumentHelp("Show how far it is on standard error."))
    var progress = false

    @Flag(name: .short, help: "Say nothing but errors.")
    var quiet = false

    @Flag(name: .long, help: "Go on behind what cannot be read; it becomes zeros.")
    var salvage = false

    @Option(
        name: .customShort("t"),
        help: ArgumentHelp("Cache of the output; unsafe does not wait for the disk at the end.", valueName: "cache"))
    var targetCache: CacheMode = .writeback

    @Option(
        name: .customShort("T"),
        help: ArgumentHelp("Cache of the image; none and directsync read past the page cache.", valueName: "cache"))
    var sourceCache: CacheMode = .writeback

    @Flag(name: .customShort("W"), help: "Accepted for qemu-img's sake: writes are never in order.")
    var outOfOrder = false

    @Flag(name: [.customShort("U"), .long], help: "Open the image even if another process writes to it.")
    var forceShare = false

    @Flag(name: .short, help: "Compress (not yet).")
    var compress = false

    @Option(
        name: [.customShort("o")], help: ArgumentHelp("Options of the format (none for raw).", valueName: "options"))
    var formatOptions: [String] = []

    @Argument(help: "The image.")
    var source: String

    @Argument(help: "The file or device to write.")
    var target: String

    func validate() throws {
        guard (1...ConvertOptions.workerLimit).contains(workers) else {
            throw ValidationError("-m takes 1 to \(ConvertOptions.workerLimit)")
        }
        guard !targetIsZero || noCreate else { throw ValidationError("--target-is-zero needs -n") }
        guard sparse.bytes % 512 == 0 else { throw ValidationError("-S takes multiples of 512") }
    }

    func run() throws {
        guard outputFormat == .raw, !compress, formatOptions.isEmpty else {
            throw ImageError(
                .unsupported, "qblk writes raw images only so far", advice: "use qemu-img convert", path: target)
        }
        let line = ProgressLine(progress && !quiet)
        let quiet = quiet
        defer { line.end() }
        do {
            try ImageConvert.raw(
                from: source, to: target, try options(), report: { line.show($0.done, of: $0.total) },
                skipped: { error in if !quiet { Notice.say(Failure.line(error)) } })
            line.show(1, of: 1)
        } catch {
            line.end()
            throw error
        }
    }

    private func options() throws -> ConvertOptions {
        var options = ConvertOptions()
        options.source = image.open
        options.source.lock = !forceShare
        options.source.direct = sourceCache.isDirect
        if let snapshot { options.source.snapshot = try SnapshotChoice.id(snapshot, in: source, options.source) }
        options.intoExisting = noCreate
        options.targetIsZero = targetIsZero
        options.sparse = sparse.bytes
        options.workers = workers
        options.salvage = salvage
        options.flush = targetCache != .unsafe
        options.cancel = Interrupts.watch()
        return options
    }
}
