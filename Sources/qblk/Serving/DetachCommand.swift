// The command `qblk detach`: its options and its errors. HotPlug detaches.

import ArgumentParser
import DiskTypes
import HotPlug
import SystemPackage
import LinuxIO

struct DetachCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "detach",
        abstract: "Takes a disk out of a running QEMU.",
        discussion: """
            Asks the guest, waits until it has let go, and ends the disk's server. The guest must be running. A disk whose \
            VM has ended is cleaned up. Exits with 1 if something that the guest wrote may be lost.

            Example:
              qblk detach qblk0 --qmp /run/vm.qmp
            """)

    @Option(name: .long, help: ArgumentHelp("The VM's QMP socket.", valueName: "socket"))
    var qmp: FilePath

    @Option(name: .long, help: ArgumentHelp("Seconds the guest has to let go.", valueName: "seconds"))
    var timeout = 30

    @Flag(name: .long, help: "Print JSON: whether the guest was asked or the VM had gone.")
    var json = false

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    @Argument(help: "The id that attach printed.")
    var id: String

    func validate() throws {
        guard (1...86_400).contains(timeout) else { throw ValidationError("--timeout takes 1 to 86400") }
    }

    func run() throws {
        let wasThere: Bool
        do throws(ImageError) {
            wasThere = try HotPlug.detach(id, qmp: qmp, timeout: Int64(timeout) * 1000)
        } catch {
            throw error.named(id)
        }
        if !wasThere { Notice.say("\(printable(id)): its VM has ended; what was left of the disk is cleaned up") }
        guard json else { return }
        try Output.write(JSONValue.members(["id": .string(id), "vm-gone": .bool(!wasThere)]).text + "\n")
    }
}
