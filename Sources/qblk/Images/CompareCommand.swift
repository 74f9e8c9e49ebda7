// The command `qblk compare`: its options, and the result in qemu-img's words and exit codes. ImageOperations compares.

import ArgumentParser
import DiskTypes
import Glibc
import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare",
        abstract: "Says whether two images have the same contents.",
        discussion: """
            Takes qemu-img compare's options. Exit code 0: the same; 1: different, the first place is on standard \
            output; 2 and up: they could not be compared.

            Example:
              qblk compare -p disk.qcow2 disk.raw
            """)

    @OptionGroup var foreign: ForeignOptions

    @Option(
        name: [.customShort("f"), .customLong("a-format"), .long],
        help: ArgumentHelp("Format of the first image: qcow2 or raw.", valueName: "format"))
    var format: ImageFormat?

    @Option(
        name: [.customShort("F"), .customLong("b-format"), .long],
        help: ArgumentHelp("Format of the second image: qcow2 or raw.", valueName: "format"))
    var secondFormat: ImageFormat?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Folder, besides the images' own, where backing and data files may lie. Repeatable.", valueName: "folder"))
    var allowPath: [FilePath] = []

    @Flag(name: [.customShort("s"), .long], help: "Sizes and allocation must be the same, too.")
    var strict = false

    @Flag(name: [.short, .long], help: "Show how far it is, on standard output; with --json on standard error.")
    var progress = false

    @Flag(name: [.short, .long], help: "Say nothing but errors.")
    var quiet = false

    @Option(
        name: [.customShort("T"), .long],
        help: ArgumentHelp("Cache; none and directsync read past the page cache.", valueName: "cache"))
    var cache: CacheMode = .writeback

    @Option(name: [.customShort("m"), .long], help: ArgumentHelp("Threads, 1 to 16.", valueName: "count"))
    var workers = ConvertOptions.defaultWorkers

    @Flag(name: [.customShort("U"), .long], help: "Open the images even if another process writes to them.")
    var forceShare = false

    @Flag(name: .long, help: "Print JSON: identical, reason, offset.")
    var json = false

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    @Argument(help: "The first image.")
    var first: FilePath

    @Argument(help: "The second image.")
    var second: FilePath

    func validate() throws {
        guard (1...ConvertOptions.workerLimit).contains(workers) else {
            throw ValidationError("-m takes 1 to \(ConvertOptions.workerLimit)")
        }
    }

    func run() throws {
        var options = CompareOptions()
        options.first = open(format)
        options.second = open(secondFormat)
        options.strict = strict
        options.workers = workers
        options.cancel = Interrupts.watch()
        let line = ProgressLine(progress && !quiet, stream: json ? STDERR_FILENO : STDOUT_FILENO)
        let result: Comparison
        do {
            result = try ImageCompare.run(first, second, options) { line.show($0.done, of: $0.total) }
        } catch {
            line.end()
            throw Failure(Failure.line(error.error), code: error.step.rawValue)
        }
        line.show(1, of: 1)
        line.end()
        if json { try Output.write(result.json.text + "\n") } else if !quiet { try Output.write(result.text) }
        if result.verdict != .identical { throw Failure(code: 1) }
    }

    private func open(_ format: ImageFormat?) -> OpenOptions {
        var options = OpenOptions()
        options.format = format
        options.allowedFolders = allowPath
        options.direct = cache.isDirect
        options.lock = !forceShare
        return options
    }
}

extension Comparison {
    /// qemu-img's words, each line ended.
    var text: String {
        let warning = hasOtherSize ? "Warning: Image size mismatch!\n" : ""
        return switch verdict {
        case .identical: warning + "Images are identical.\n"
        case .sizesDiffer: "Strict mode: Image size mismatch!\n"
        case .statusDiffers(let place): "Strict mode: Offset \(place) block status mismatch!\n"
        case .contentDiffers(let place): warning + "Content mismatch at offset \(place)!\n"
        }
    }

    var json: JSONValue {
        let (reason, place): (String?, UInt64?) =
            switch verdict {
            case .identical: (nil, nil)
            case .sizesDiffer: ("size", nil)
            case .statusDiffers(let place): ("block-status", place)
            case .contentDiffers(let place): ("content", place)
            }
        return .members([
            "identical": .bool(verdict == .identical),
            "size-mismatch": .bool(hasOtherSize || verdict == .sizesDiffer),
            "reason": reason.map { .string($0) },
            "offset": place.map { .unsigned($0) },
        ])
    }
}
