// The command `qblk list`: maps and disks in VMs, as a table or JSON. MapEntry has the lines.

import ArgumentParser
import DiskTypes
import MapRegistry

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Says which images are mapped, or plugged into VMs.",
        discussion: """
            For a disk in a VM, DEVICE is the VM's QMP socket. STATE is alive; degraded (a process of it is dead); failed (the \
            image was cut or replaced, and all requests fail: unmap it); dead (the device is gone); or going (deferred).

            Example:
              qblk list --json
            """)

    @OptionGroup var output: OutputOptions

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    func run() throws {
        let entries =
            try MapRegistry().all().map { MapEntry($0) } + AttachmentRegistry().all().map { MapEntry($0) }
        if output.isJSON { return try Output.write(JSONValue.array(entries.map(\.json)).text + "\n") }
        guard !entries.isEmpty else { return }
        try Output.write(TextTable.text([MapEntry.heading] + entries.map(\.columns)))
    }
}
