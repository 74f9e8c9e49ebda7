// The command `qblk attach`: its options, and the line that says what the VM got. HotPlug attaches.

import ArgumentParser
import DiskTypes
import HotPlug
import ImageOperations
import MapRegistry
import SystemPackage
import LinuxIO

struct AttachCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attach",
        abstract: "Plugs an image or a block device into a running QEMU.",
        discussion: """
            Prints the device's id once the VM has the disk. An image becomes a vhost-user-blk disk, with a server in the \
            background that ends with the VM or by `qblk detach`; the VM's memory must be shared. A block device, such as \
            one that `qblk map` made, becomes a virtio-blk disk.

            A server that dies is followed by another one with the very same files, whatever became of their names. SIGHUP to \
            the supervisor (see `qblk list --json`) does what it does to `qblk serve`: a raw image that has grown is larger \
            in the guest. A disk whose supervisor was killed is mended by the next attach to the same VM.

            Example:
              qblk attach disk.qcow2 --read-only --qmp /run/vm.qmp        prints qblk0
            """)

    @OptionGroup var image: ImageOptions

    @Option(name: .long, help: ArgumentHelp("The VM's QMP socket.", valueName: "socket"))
    var qmp: FilePath

    @Option(name: .long, help: ArgumentHelp("Id of the device. Default: qblk0, or the next free one.", valueName: "id"))
    var id: String?

    @Flag(name: [.short, .long], help: "The guest cannot write.")
    var readOnly = false

    @Option(
        name: .long,
        help: ArgumentHelp("Queues. Default: one for each processor of the VM, at most 4.", valueName: "count"))
    var queues: Int?

    @Option(name: .long, help: ArgumentHelp("Threads of the server.", valueName: "count"))
    var workers: Int?

    @Option(name: .long, help: ArgumentHelp("How the server waits: off, adaptive or busy.", valueName: "mode"))
    var poll: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "none, writeback, writethrough, directsync or unsafe, as QEMU means them.", valueName: "mode"))
    var cache: String?

    @Flag(name: .long, help: "Packed rings.")
    var packed = false

    @Option(
        name: .long,
        help: ArgumentHelp("Bus to plug into. Default: the first free PCI Express port.", valueName: "bus"))
    var bus: String?

    @Option(name: .long, help: ArgumentHelp("Serial number that the guest sees. Default: the id.", valueName: "serial"))
    var serial: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Internal snapshot to show: its id or name, or snapshot.id=ID, snapshot.name=NAME.", valueName: "snapshot"))
    var snapshot: String?

    @Flag(name: .long, help: "Print JSON: the entry that list would show.")
    var json = false

    @Argument(help: ArgumentHelp("The image or the block device.", valueName: "image"))
    var path: FilePath

    func validate() throws {
        for (option, value) in [("--queues", queues), ("--workers", workers)] {
            guard value.map({ (1...64).contains($0) }) ?? true else {
                throw ValidationError("\(option) takes 1 to 64")
            }
        }
        guard serial.map({ $0.utf8.count <= 20 }) ?? true else {
            throw ValidationError("--serial takes 20 bytes at most")
        }
    }

    func run() throws {
        var options = AttachOptions(image: path, qmp: qmp, open: image.open)
        if let snapshot { options.open.snapshot = try SnapshotChoice.id(snapshot, in: path, image.open) }
        options.id = id
        options.readOnly = readOnly
        options.queues = queues
        options.packed = packed
        options.bus = bus
        options.serial = serial
        let words = [("--workers", workers.map(String.init)), ("--poll", poll), ("--cache", cache)]
        options.serveArguments = words.flatMap { option, value in value.map { [option, $0] } ?? [] }
        let record: AttachmentRecord
        do throws(ImageError) { record = try HotPlug.attach(options) } catch { throw error.named(path) }
        do { try Output.write((json ? MapEntry(record).json.text : record.id) + "\n") } catch {
            // The id could not be printed, so the caller could not take the disk out again.
            _ = try? HotPlug.detach(record.id, qmp: qmp, timeout: 30_000)
            throw error
        }
    }
}
