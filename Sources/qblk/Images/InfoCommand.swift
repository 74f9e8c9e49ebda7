// The command `qblk info`: its options, and which of the two forms is printed. ImageOperations reads the image.

import ArgumentParser
import DiskTypes
import ImageOperations
import SystemPackage
import LinuxIO

struct InfoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info",
        abstract: "Says what an image is.",
        discussion: """
            Prints what `qemu-img info` prints, with the same JSON keys. Opens the image's own file only, never what it \
            refers to, unless --backing-chain asks for it.

            Example:
              qblk info --json disk.qcow2
            """)

    @OptionGroup var image: ImageOptions
    @OptionGroup var output: OutputOptions
    @OptionGroup var foreign: ForeignOptions

    @Flag(name: .long, help: "Go through the backing files, too. JSON is an array then.")
    var backingChain = false

    @Flag(name: [.customShort("U"), .long], help: "Open the image even if another process writes to it.")
    var forceShare = false

    @Option(name: [.customShort("t"), .long], help: ArgumentHelp("Accepted for qemu-img's sake.", valueName: "cache"))
    var cache: CacheMode = .writeback

    @Flag(help: .hidden)
    var limits = false

    @Argument(help: "The image.")
    var path: FilePath

    func validate() throws {
        if limits { throw ValidationError("--limits is qemu-img's own: it shows how QEMU would cut requests") }
    }

    func run() throws {
        var options = image.open
        options.lock = !forceShare
        let report = try ImageInfo.read(path: path, options: options, chain: backingChain)
        if output.isJSON {
            let images = report.images.map(\.json)
            try Output.write((backingChain ? .array(images) : images.first ?? .null).text + "\n")
        } else {
            try Output.write(report.images.map(\.text).joined(separator: "\n"))
        }
        for warning in report.warnings { Notice.say(Failure.line(warning)) }
    }
}
