// Why this file exists: `qblk unmap`.

import ArgumentParser
import DeviceMapperMap
import DiskTypes
import FuseExport
import MapRegistry

struct UnmapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmap",
        abstract: "Takes a mapped device down.",
        discussion: """
            Removes the device and ends what served it. A device in use is refused; with --deferred it goes as soon as
            nobody uses it.

            Example:
              qblk unmap /dev/loop0
            """)

    @Flag(name: .long, help: "Take down every map.")
    var all = false

    @Flag(name: .long, help: "If the device is in use, remove it when it no longer is.")
    var deferred = false

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    @Argument(help: ArgumentHelp("Name, device or image.", valueName: "map"))
    var key: String?

    func validate() throws {
        guard all != (key != nil) else { throw ValidationError("say which map, or --all") }
    }

    func run() throws {
        let registry = MapRegistry()
        guard let key else { return try takeDownAll(registry) }
        guard let record = try registry.find(key) else {
            throw ImageError(
                .notFound, "nothing of this name is mapped", advice: "`qblk list` shows what is", path: key)
        }
        do throws(ImageError) { try takeDown(record, registry) } catch { throw error.named(key) }
    }

    private func takeDown(_ record: MapRecord, _ registry: MapRegistry) throws(ImageError) {
        switch record.how {
        case .dm, .hybrid: try DMMap.unmap(record, deferred: deferred, registry: registry)
        case .loop, .ublk: try LoopExport.unmap(record, deferred: deferred, registry: registry)
        }
    }

    /// Goes through all of them even if one cannot be taken down.
    private func takeDownAll(_ registry: MapRegistry) throws {
        var failed = false
        for record in try registry.all() {
            do throws(ImageError) { try takeDown(record, registry) } catch {
                Failure.warn(Failure.line(error.named(record.name)))
                failed = true
            }
        }
        for name in (try? DMMap.sweep(registry: registry)) ?? [] where verbose > 0 {
            Failure.warn("\(name): removed what a crash had left")
        }
        if failed { throw Failure(code: 1) }
    }
}
