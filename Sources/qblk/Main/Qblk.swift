// The list of commands, and what `qblk --help` prints first.

import ArgumentParser

struct Qblk: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qblk",
        abstract: "Makes QCOW2 images usable as block devices.",
        discussion: """
            The options of info, extents, check, compare, convert, create and resize are those of qemu-img, joined (-fqcow2) or \
            long. Results go to standard output, and so does the progress that -p of compare and convert shows; everything else \
            goes to standard error. A verb that a signal interrupts ends by that signal. An error is one line:
              qblk: IMAGE: what is wrong (where): what to do

            Example:
              qblk map -r disk.qcow2        prints /dev/mapper/disk.qcow2
            """,
        version: "qblk \(Version.text)",
        groupedSubcommands: [
            CommandGroup(
                name: "Block devices",
                subcommands: [
                    MapCommand.self, UnmapCommand.self, ListCommand.self, TableCommand.self, DoctorCommand.self,
                ]),
            CommandGroup(
                name: "Virtual machines", subcommands: [ServeCommand.self, AttachCommand.self, DetachCommand.self]),
            CommandGroup(
                name: "Images",
                subcommands: [
                    InfoCommand.self, ExtentsCommand.self, CheckCommand.self, CompareCommand.self, ConvertCommand.self,
                    CreateCommand.self, ResizeCommand.self,
                ]),
            CommandGroup(name: "Measuring", subcommands: [BenchCommand.self]),
        ])
}

enum Version {
    static let text = "0.1.0"
}
