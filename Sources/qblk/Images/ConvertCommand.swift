// The command `qblk convert`: its options, and the progress line. ImageOperations converts.

import ArgumentParser
import DiskTypes
import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

struct ConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract: "Writes an image out as another image or onto a block device.",
        discussion: """
            Takes qemu-img convert's options. Damage is an error that names the place; nothing that cannot be read \
            becomes zeros, unless --salvage says so. An error leaves the output as far as it came; a qcow2 image gets \
            its header last of all, so what is incomplete does not open as one.

            Example:
              qblk convert -O raw disk.qcow2 disk.raw
              qblk convert -O qcow2 -c -o compression_type=zstd disk.raw disk.qcow2
              qblk convert -n -O raw -l before-upgrade disk.qcow2 /dev/vg0/disk
            """)

    @OptionGroup var image: ImageOptions
    @OptionGroup var foreign: ForeignOptions

    @Option(name: .long, help: ArgumentHelp("The same as --format.", valueName: "format"))
    var sourceFormat: ImageFormat?

    @Option(
        name: [.customShort("O"), .customLong("target-format"), .long],
        help: ArgumentHelp("Format to write: qcow2 or raw, which is the default.", valueName: "format"))
    var outputFormat: ImageFormat?

    @Option(
        name: [.customShort("l"), .long],
        help: ArgumentHelp(
            "Internal snapshot to read: its id or name, or snapshot.id=ID, snapshot.name=NAME.", valueName: "snapshot"))
    var snapshot: String?

    @Flag(
        name: [.customShort("n"), .long],
        help: "Write into what is there: a device, a file or a qcow2 image that is large enough.")
    var noCreate = false

    @Flag(name: .long, help: "With -n: what is there reads as zeros already.")
    var targetIsZero = false

    @Option(
        name: [.customShort("S"), .customLong("sparse-size"), .long],
        help: ArgumentHelp("Leave runs of zeros of this length out (k, M, G); 0 writes everything.", valueName: "size"))
    var sparse = ByteCount(4096)

    @Option(
        name: [.customShort("m"), .customLong("parallel"), .long],
        help: ArgumentHelp("Threads, 1 to 16.", valueName: "count"))
    var workers = ConvertOptions.defaultWorkers

    @Flag(name: [.short, .long], help: "Show how far it is.")
    var progress = false

    @Flag(name: [.short, .long], help: "Say nothing but errors.")
    var quiet = false

    @Flag(name: .long, help: "Go on behind what cannot be read; it becomes zeros.")
    var salvage = false

    @Option(
        name: [.customShort("t"), .long],
        help: ArgumentHelp("Cache of the output; unsafe does not wait for the disk at the end.", valueName: "cache"))
    var targetCache: CacheMode = .writeback

    @Option(
        name: [.customShort("T"), .long],
        help: ArgumentHelp("Cache of the image; none and directsync read past the page cache.", valueName: "cache"))
    var sourceCache: CacheMode = .writeback

    @Flag(
        name: [.customShort("W"), .customLong("oob-writes")],
        help: "Accepted for qemu-img's sake: writes are never in order.")
    var outOfOrder = false

    @Flag(name: [.customShort("U"), .long], help: "Open the image even if another process writes to it.")
    var forceShare = false

    @Flag(name: [.short, .long], help: "Compress the clusters (qcow2).")
    var compress = false

    @Option(
        name: [.customShort("o"), .customLong("target-format-options")],
        help: ArgumentHelp(
            "Options of the new qcow2 image, NAME=VALUE,...; help lists them. Repeatable.", valueName: "options"))
    var formatOptions: [String] = []

    @Option(
        name: [.customShort("B"), .customShort("b"), .long],
        help: ArgumentHelp(
            "Backing file of the new image, as seen from its folder: only what differs is written.", valueName: "file"))
    var backing: String?

    @Option(name: [.customShort("F"), .long], help: ArgumentHelp("Format of the backing file.", valueName: "format"))
    var backingFormat: String?

    @Option(
        name: [.customShort("r"), .long],
        help: ArgumentHelp("Read so many bytes of data a second at most (k, M, G).", valueName: "size"))
    var rateLimit: ByteCount?

    @Flag(name: [.customShort("C"), .long], help: "Accepted for qemu-img's sake.")
    var copyRangeOffloading = false

    @Flag(help: .hidden)
    var bitmaps = false

    @Flag(help: .hidden)
    var skipBrokenBitmaps = false

    @Argument(help: "The image.")
    var source: FilePath?

    @Argument(help: "The file or device to write.")
    var target: FilePath?

    func validate() throws {
        guard (1...ConvertOptions.workerLimit).contains(workers) else {
            throw ValidationError("-m takes 1 to \(ConvertOptions.workerLimit)")
        }
        guard target != nil || FormatOptions.asksForHelp(formatOptions) else {
            throw ValidationError("the names of the image and of the output are needed")
        }
        if bitmaps || skipBrokenBitmaps {
            throw ValidationError("bitmaps are not copied: leave --bitmaps out, or use qemu-img convert")
        }
        guard rateLimit.map({ $0.bytes > 0 }) ?? true else { throw ValidationError("-r takes 1 byte a second or more") }
        guard !targetIsZero || noCreate else { throw ValidationError("--target-is-zero needs -n") }
        guard sparse.bytes % 512 == 0 else { throw ValidationError("-S takes multiples of 512") }
    }

    func run() throws {
        let format = outputFormat ?? .raw
        if FormatOptions.asksForHelp(formatOptions) { return try Output.write(FormatOptions.help(format)) }
        guard let source, let target else { return }
        let line = ProgressLine(progress && !quiet)
        let quiet = quiet
        let report: (ImageConvert.Progress) -> Void = { line.show($0.done, of: $0.total) }
        let skipped: @Sendable (ImageError) -> Void = { error in if !quiet { Notice.say(Failure.line(error)) } }
        defer { line.end() }
        do {
            let options = try options(source, target)
            if outputFormat == nil, noCreate { try ImageFormat.requirePlain(output: target) }
            if format == .raw {
                try ImageConvert.raw(from: source, to: target, options, report: report, skipped: skipped)
            } else {
                try ImageConvert.qcow2(from: source, to: target, options, report: report, skipped: skipped)
            }
            line.show(1, of: 1)
        } catch {
            line.end()
            throw error
        }
    }

    private func options(_ source: FilePath, _ target: FilePath) throws -> ConvertOptions {
        var options = ConvertOptions()
        let format = outputFormat ?? .raw
        if format == .raw, compress || !formatOptions.isEmpty || backing != nil || backingFormat != nil {
            throw ImageError(.unsupported, "a raw image has no -c, -o, -B or -F", path: target)
        }
        do throws(ImageError) {
            options.format = try FormatOptions(formatOptions, for: format)
            try options.format.setBacking(backing, format: backingFormat)
        } catch {
            throw error.named(target)
        }
        options.compress = compress
        options.source = image.open
        if let sourceFormat { options.source.format = sourceFormat }
        options.source.lock = !forceShare
        options.source.direct = sourceCache.isDirect
        if let snapshot { options.source.snapshot = try SnapshotChoice.id(snapshot, in: source, options.source) }
        options.intoExisting = noCreate
        options.targetIsZero = targetIsZero
        options.sparse = sparse.bytes
        options.workers = workers
        options.bytesPerSecond = rateLimit?.bytes
        options.salvage = salvage
        options.flush = targetCache != .unsafe
        options.cancel = Interrupts.watch()
        return options
    }
}
