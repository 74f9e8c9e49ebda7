// The command `qblk table`: its options, and the lines of a device-mapper table. DeviceMapperMap makes the table.

import ArgumentParser
import DeviceMapperMap
import DiskTypes
import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

struct TableCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "table",
        abstract: "Prints the device-mapper table of an image.",
        discussion: """
            The syntax is dmsetup's. Files stand for themselves until --device names the block devices over them, once \
            for each file, in the order in which the table without --device names them. Touches no kernel.

            Example:
              loop=$(losetup -f -r --show disk.qcow2)
              qblk table --device $loop disk.qcow2 | dmsetup create -r disk
            """)

    @OptionGroup var image: ImageOptions

    @Flag(name: [.short, .long], help: "A read-only table, the only kind so far.")
    var readOnly = false

    @Option(name: .long, help: ArgumentHelp("Internal snapshot to show.", valueName: "snapshot"))
    var snapshot: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Device for a file: a path or MAJOR:MINOR. Repeatable.", valueName: "device"))
    var device: [FilePath] = []

    @Flag(name: [.customShort("U"), .long], help: "Open the image even if another process writes to it.")
    var forceShare = false

    @Flag(name: .long, help: "Print JSON: start, length, type and parameters of each line.")
    var json = false

    @Argument(help: "The image.")
    var path: FilePath

    func run() throws {
        var options = image.open
        options.snapshot = snapshot
        options.lock = !forceShare
        options.direct = false
        let chain = try ImageChain.open(path: path, options: options)
        let table: DMTable
        let names: DMDeviceNames
        do throws(ImageError) {
            table = try DMTable(of: chain)
            names = try table.names(for: chain, devices: device)
        } catch {
            throw error.named(path)
        }
        var out = Output()
        for index in table.lines.indices {
            let target = table.target(index, names: names)
            if json { out.text(index == 0 ? "[" : ",\n") }
            out.text(json ? target.json : target.text + "\n")
            try out.drain()
        }
        if json { out.text("]\n") }
        try out.flush()
    }
}

extension DMTarget {
    fileprivate var json: String {
        JSONValue.members([
            "start": .unsigned(start), "length": .unsigned(length), "type": .string(type),
            "parameters": .string(parameters),
        ]).line
    }
}
