// Why this file exists: `qblk table`.

import ArgumentParser
import DeviceMapperMap
import DiskTypes
import ImageChain

struct TableCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "table",
        abstract: "Prints the device-mapper table of an image.",
        discussion: """
            In dmsetup's syntax; touches no kernel. Without --device the files of the chain stand where their loop
            devices must, so that replacing each path by a device gives a table for `dmsetup create`.

            Example:
              qblk table -r --device /dev/loop0 disk.qcow2
            """)

    @OptionGroup var image: ImageOptions

    @Flag(name: [.customShort("r"), .long], help: "The table of a read-only map, the only kind so far.")
    var readOnly = false

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Device of a file, as MAJ:MIN or path. Repeatable: one for each file the table uses, active image first.",
            valueName: "device"))
    var device: [String] = []

    @Option(name: .long, help: ArgumentHelp("Of this internal snapshot.", valueName: "id or name"))
    var snapshot: String?

    @Argument(help: "The image.")
    var path: String

    func run() throws {
        var options = image.open
        options.snapshot = snapshot
        let table: DMTable
        let names: DMDeviceNames
        do throws(ImageError) {
            let chain = try ImageChain.open(path: path, options: options)
            table = try DMTable(of: chain)
            names = try table.names(for: chain, devices: device)
        } catch { throw error.named(path) }
        var out = Output()
        var failed: (any Error)?
        table.write(names: names) { text in
            out.text(text)
            if failed == nil { do { try out.drain() } catch { failed = error } }
        }
        if let failed { throw failed }
        try out.flush()
    }
}
