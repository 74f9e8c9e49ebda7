// The command `qblk resize`: its options, and sizes as qemu-img writes them. ImageOperations resizes.

public import ArgumentParser
import DiskTypes
import ImageChain
import ImageOperations
public import QCOW2
import SystemPackage
import LinuxIO

struct ResizeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize",
        abstract: "Changes the size of an image's disk.",
        discussion: """
            Takes qemu-img resize's options. The new part reads as zeros, whatever a longer backing file has there. A crash \
            leaves the disk with its old size, or its new one. An image that is mapped, served or used by a VM is refused. What \
            is on the disk (partitions, file systems) must be made larger afterwards, and smaller before.

            Example:
              qblk resize disk.qcow2 +10G
              qblk resize -f raw --preallocation falloc disk.raw 20G
              qblk resize --shrink disk.qcow2 5G
            """)

    @OptionGroup var foreign: ForeignOptions

    @Option(
        name: [.short, .long],
        help: ArgumentHelp(
            "Format of the image: qcow2 or raw. Needed unless the image is qcow2 and named *.qcow2.",
            valueName: "format"))
    var format: ImageFormat?

    @Option(
        name: .long,
        help: ArgumentHelp("Space for the new part: off, metadata (qcow2), falloc or full.", valueName: "mode"))
    var preallocation: PreallocationMode = .off

    @Flag(name: .long, help: "Allow a smaller size: what lies behind it is lost.")
    var shrink = false

    @Flag(name: [.short, .long], help: "Say nothing but errors.")
    var quiet = false

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Folder, besides the image's own, where files it refers to may lie. Repeatable.", valueName: "folder"))
    var allowPath: [FilePath] = []

    @Argument(help: "The image.")
    var path: FilePath

    @Argument(help: ArgumentHelp("The new size (k, M, G, T, P, E), or by how much it changes: with + or - before it."))
    var size: SizeChange

    func run() throws {
        var request = FileResize.Request(path: path, change: size.change)
        request.options.format = format
        request.options.allowedFolders = allowPath
        request.mayShrink = shrink
        request.preallocation = preallocation
        try FileResize.run(request)
        if !quiet { try Output.write("Image resized.\n") }
    }

    /// A size that begins with a minus sign looks like an option; as with qemu-img, it is the last word.
    static func prepared(_ arguments: [String]) -> [String] {
        guard arguments.first == configuration.commandName, let last = arguments.last, !arguments.contains("--"),
            last.first == "-", last.dropFirst().first?.isNumber == true
        else { return arguments }
        return arguments.dropLast() + ["--", last]
    }
}

/// As in `20G`, `+5G`, `-1G`.
struct SizeChange: ExpressibleByArgument {
    let change: FileResize.Change
    init?(argument: String) {
        guard let change = FileResize.Change(argument) else { return nil }
        self.change = change
    }
}

extension PreallocationMode: ExpressibleByArgument {}
