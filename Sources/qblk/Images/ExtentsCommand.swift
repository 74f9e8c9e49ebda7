// The command `qblk extents`: its options, and the list as a table or as qemu-img's JSON. ImageOperations makes the
// list.

import ArgumentParser
import DiskTypes
import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

struct ExtentsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "extents",
        abstract: "Says where the bytes of an image are.",
        discussion: """
            Prints what `qemu-img map` prints: for people the data and where it lies, with --json every run of the disk. \
            Where the image is damaged, or ends too early, it stops with exit code 1 and an error that names the place.

            Example:
              qblk extents --json --start-offset 1G --max-length 64M disk.qcow2
            """)

    @OptionGroup var image: ImageOptions
    @OptionGroup var output: OutputOptions
    @OptionGroup var foreign: ForeignOptions

    @Option(name: [.short, .long], help: ArgumentHelp("First byte of the disk to look at.", valueName: "offset"))
    var startOffset = ByteCount(0)

    @Option(
        name: [.customShort("l"), .long],
        help: ArgumentHelp("How many bytes of the disk to look at.", valueName: "length"))
    var maxLength: ByteCount?

    @Flag(name: [.customShort("U"), .long], help: "Open the image even if another process writes to it.")
    var forceShare = false

    @Argument(help: "The image.")
    var path: FilePath

    func run() throws {
        var options = image.open
        options.lock = !forceShare
        options.direct = false
        let chain = try ImageChain.open(path: path, options: options)
        var list = ExtentList(chain, start: startOffset.bytes, length: maxLength?.bytes ?? .max)
        var out = Output()
        if output.isJSON { try printJSON(&list, &out) } else { try printTable(&list, chain, &out) }
        try out.flush()
    }

    private func printJSON(_ list: inout ExtentList, _ out: inout Output) throws {
        out.text("[")
        var run = try list.next() ?? BlockStatus(start: startOffset.bytes, length: 0)
        while true {
            out.text(run.json)
            guard let next = try list.next() else { break }
            out.text(",\n")
            try out.drain()
            run = next
        }
        out.text("]\n")
    }

    private func printTable(_ list: inout ExtentList, _ chain: ImageChain, _ out: inout Output) throws {
        out.line(columns("Offset", "Length", "Mapped to", "File"))
        while let run = try list.next() {
            guard run.isData else { continue }
            guard let offset = run.offset, let file = run.file else {
                try out.flush()
                throw ImageError(
                    .unsupported, "File contains external, encrypted or compressed clusters",
                    advice: "they have no offset to show; use --json", path: path)
            }
            if run.isZero { continue }
            out.line(columns(hex(run.start), hex(run.length), hex(offset), printable(chain.files[Int(file)].path)))
            try out.drain()
        }
    }

    private func columns(_ texts: String...) -> String {
        texts.dropLast().map { $0 + String(repeating: " ", count: max(0, 16 - $0.utf8.count)) }.joined()
            + (texts.last ?? "")
    }
    /// As printf's `%#x`: zero has no prefix.
    private func hex(_ value: UInt64) -> String { value == 0 ? "0" : DiskTypes.hex(value) }
}

extension BlockStatus {
    /// One entry as qemu-img writes it, on one line.
    var json: String {
        JSONValue.members([
            "start": .unsigned(start), "length": .unsigned(length), "depth": .number(depth),
            "present": .bool(isPresent), "zero": .bool(isZero), "data": .bool(isData),
            "compressed": .bool(isCompressed), "offset": offset.map { .unsigned($0) },
        ]).line
    }
}
