// The command `qblk create`: its options, and the line that says what was made. ImageOperations creates.

import ArgumentParser
import DiskTypes
import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

struct CreateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Makes a new image.",
        discussion: """
            Takes qemu-img create's options and prints its line. A file that is there is overwritten, unless another \
            process uses it. `-o help` lists the options of a format.

            Example:
              qblk create -f qcow2 disk.qcow2 20G
              qblk create -f qcow2 -o preallocation=metadata,extended_l2=on disk.qcow2 20G
              qblk create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2
            """)

    @OptionGroup var foreign: ForeignOptions

    @Option(name: [.short, .long], help: ArgumentHelp("Format of the new image: qcow2 or raw.", valueName: "format"))
    var format: ImageFormat = .raw

    @Option(
        name: [.customShort("o"), .long],
        help: ArgumentHelp("Options of the format, NAME=VALUE,...; help lists them. Repeatable.", valueName: "options"))
    var options: [String] = []

    @Option(
        name: [.customShort("b"), .long],
        help: ArgumentHelp("Backing file, as seen from the new image's folder.", valueName: "file"))
    var backing: String?

    @Option(
        name: [.customShort("F"), .customShort("B"), .long],
        help: ArgumentHelp("Format of the backing file.", valueName: "format"))
    var backingFormat: String?

    @Flag(name: [.customShort("u"), .long], help: "Write the backing file's name down without looking at the file.")
    var backingUnsafe = false

    @Flag(name: [.short, .long], help: "Print nothing but errors.")
    var quiet = false

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Folder, besides the backing file's own, where files it refers to may lie. Repeatable.",
            valueName: "folder"))
    var allowPath: [FilePath] = []

    @Argument(help: "The image to make. It is overwritten if it is there.")
    var file: FilePath?

    @Argument(help: ArgumentHelp("Size of its disk (k, M, G, T, P, E). Without it, the backing file's."))
    var size: ByteCount?

    func validate() throws {
        guard file != nil || FormatOptions.asksForHelp(options) else {
            throw ValidationError("the name of the new image is missing")
        }
    }

    func run() throws {
        if FormatOptions.asksForHelp(options) { return try Output.write(FormatOptions.help(format)) }
        guard let file else { return }
        do {
            var request = ImageCreate.Request(path: file, format: format)
            request.options = try FormatOptions(options, for: format)
            try request.options.setBacking(backing, format: backingFormat)
            request.size = size?.bytes
            request.isUnsafe = backingUnsafe
            request.allowedFolders = allowPath
            let image = try ImageCreate(request)
            if !quiet { try Output.write(image.summary + "\n") }
            try image.write()
        } catch let error as ImageError {
            throw error.named(file)
        }
    }
}
