// The command `qblk unmap`: takes down one map, or all. DeviceMapperMap and FuseExport do it, each with its own maps.

import ArgumentParser
import DeviceMapperMap
import DiskTypes
import FuseExport
import LinuxIO
import MapRegistry
import SystemPackage

struct UnmapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmap",
        abstract: "Takes a map's device away.",
        discussion: """
            What was written to it is on the disk afterwards, or an error says why not (exit code 1). Where it cannot be \
            brought to the disk the map stays, to be copied from; --deferred takes it down all the same. A map that was given \
            up, or whose processes were killed, goes, and the error says what may be lost. Ends its server, too. A device in \
            use is refused and stays.

            Example:
              qblk unmap disk.qcow2
            """)

    @Flag(name: .long, help: "All maps there are.")
    var all = false

    @Flag(name: .long, help: "A device in use goes with its last user.")
    var deferred = false

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    @Argument(help: ArgumentHelp("The map's name, its device or its image.", valueName: "map"))
    var map: FilePath?

    func validate() throws {
        guard all != (map != nil) else { throw ValidationError("say which map, or --all") }
    }

    func run() throws {
        let registry = MapRegistry()
        guard let map else { return try unmapAll(registry) }
        guard let record = try registry.find(map) ?? Self.byDevice(map, registry) else {
            if try Self.wasUnrecorded(map, registry) { return }
            if let disk = try AttachmentRegistry(registry).all().first(where: {
                FilePath($0.id) == map || $0.image == map
            }) {
                throw ImageError(
                    .reference, "is a disk in a VM", advice: "qblk detach \(disk.id) --qmp \(disk.qmp)", path: map)
            }
            throw ImageError(.notFound, "is not mapped", advice: "`qblk list` says what is", path: map)
        }
        try unmap(record)
    }

    /// Takes down all maps; prints a line for each that stays or has lost something.
    private func unmapAll(_ registry: MapRegistry) throws {
        var problems: [ImageError] = []
        for record in try registry.all() {
            do throws(ImageError) { try unmap(record) } catch { problems.append(error) }
        }
        do throws(ImageError) { try LoopExport.cleanUp(registry, notice: Notice.say) } catch { problems.append(error) }
        for problem in problems { Failure.warn(Failure.line(problem)) }
        if !problems.isEmpty { throw Failure() }
    }

    private func unmap(_ record: MapRecord) throws(ImageError) {
        if let obstacle = Privileges.obstacleToDevices { throw ImageError(.system, obstacle, advice: "use sudo") }
        try Self.takeDown(record, deferred: deferred)
    }

    /// Takes one map down by the way it was made.
    static func takeDown(_ record: MapRecord, deferred: Bool) throws(ImageError) {
        do throws(ImageError) {
            switch record.how {
            case .dm: try DMMap.unmap(record, deferred: deferred)
            case .loop:
                let name = record.name
                try LoopExport.unmap(record, deferred: deferred) { Notice.say("\(name): \($0)") }
            case .hybrid, .ublk:
                throw ImageError(.unsupported, "was mapped via \(record.how.rawValue), which this qblk cannot undo")
            }
        } catch {
            throw error.named(record.name)
        }
    }

    /// Removes what is left of a map that was killed while it was made: it has a folder and no record. True when there
    /// was one.
    private static func wasUnrecorded(_ name: FilePath, _ registry: MapRegistry) throws(ImageError) -> Bool {
        guard let name = name.name.text, (try? MapName.check(name)) != nil else { return false }
        let folder = registry.folder(of: name)
        guard Filesystem.isDirectory(folder) else { return false }
        try LoopExport.cleanUp(registry, notice: Notice.say)
        return !Filesystem.exists(folder)
    }

    /// The device by another of its names: /dev/dm-0 for /dev/mapper/disk, for one.
    private static func byDevice(_ path: FilePath, _ registry: MapRegistry) throws(ImageError) -> MapRecord? {
        guard let wanted = Filesystem.identity(of: path), wanted.inode == 0 else { return nil }
        return try registry.all().first { Filesystem.identity(of: FilePath($0.device)) == wanted }
    }
}
