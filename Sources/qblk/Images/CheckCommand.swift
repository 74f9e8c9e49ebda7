// The command `qblk check`: its options, and the findings as text or JSON. QCOW2's checker does the work.

public import ArgumentParser
import DiskTypes
import Glibc
import ImageOperations
public import QCOW2
import SystemPackage
import LinuxIO

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Checks an image's metadata, and repairs it.",
        discussion: """
            Takes qemu-img check's options. Looks at the image's own file only: unlike qemu-img's it needs no \
            backing file. Exit code 0: clean; 1: it could not be \
            checked; 2: corrupt; 3: clusters are leaked, which is harmless; 63: the format has nothing to check. After a \
            repair it stands for what is left. A repair changes refcounts and flags; it drops no data, and leaves entries \
            that point nowhere as they are.

            Example:
              qblk check disk.qcow2
              qblk check -r all --json disk.qcow2
            """)

    @OptionGroup var image: ImageOptions
    @OptionGroup var output: OutputOptions
    @OptionGroup var foreign: ForeignOptions

    @Option(
        name: [.customShort("r"), .long],
        help: ArgumentHelp("Repair: leaks gives leaked clusters back, all mends what can be.", valueName: "what"))
    var repair: RepairMode?

    @Flag(name: [.short, .long], help: "Show how far it is on standard error.")
    var progress = false

    @Flag(name: [.short, .long], help: "Say nothing but errors.")
    var quiet = false

    @Option(name: [.customShort("T"), .long], help: ArgumentHelp("Accepted for qemu-img's sake.", valueName: "cache"))
    var cache: CacheMode = .writeback

    @Flag(name: [.customShort("U"), .long], help: "Open the image even if another process writes to it.")
    var forceShare = false

    @Argument(help: "The image.")
    var path: FilePath

    func validate() throws {
        if forceShare, repair != nil { throw ValidationError("-U is for looking only: it cannot go with -r") }
    }

    func run() throws {
        let line = ProgressLine(progress && !quiet, stream: STDERR_FILENO)
        var request = FileCheck.Request()
        request.options = image.open
        request.options.lock = !forceShare
        request.repair = repair
        request.findingLimit = [100, 1000, 100_000][min(image.verbose, 2)]
        request.cancel = Interrupts.watch()
        request.progress = { line.show($0, of: $1) }
        let isQuiet = quiet
        request.found = { if !isQuiet { Self.say($0, line) } }
        let report: CheckReport?
        do {
            report = try FileCheck.run(path, request)
        } catch {
            line.end()
            throw error
        }
        line.show(1, of: 1)
        line.end()
        guard let report else {
            throw Failure("\(path): this format has nothing to check: only qcow2 images have", code: 63)
        }
        if !quiet, repair == nil { Self.say(report, line) }
        if !quiet, repair != nil, let reason = report.keepsLeaks, report.leaks > 0 {
            Failure.print("Leaked clusters are kept: \(reason)\n")
        }
        if output.isJSON {
            try Output.write(report.json(filename: path).text + "\n")
        } else if !quiet {
            try Output.write(report.text)
        }
        if report.exitCode != 0 { throw Failure(code: report.exitCode) }
    }

    /// One line a finding, on standard error.
    private static func say(_ report: CheckReport, _ line: ProgressLine) {
        line.end()
        var text = ""
        for finding in report.findings { text += finding.line + "\n" }
        if report.findingsLeftOut > 0 { text += "... and \(report.findingsLeftOut) more\n" }
        if !text.isEmpty { Failure.print(text) }
    }
}

extension RepairMode: ExpressibleByArgument {
    /// `leaks` or `all`; nil for any other word.
    public init?(argument: String) {
        switch argument {
        case "leaks": self = .leaks
        case "all": self = .all
        default: return nil
        }
    }
    /// The words that `--repair` takes, for help and completion.
    public static var allValueStrings: [String] { ["leaks", "all"] }
}
