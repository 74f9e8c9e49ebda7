// Why this file exists: `map` chooses a door. The choice is made here, in one place, and `doctor` explains it with the
// same words.

import BlockEngine
import DeviceMapperMap
import DiskTypes
import FuseExport
import Glibc
import ImageChain
import LinuxIO
import MapRegistry
import SystemPackage

/// One image on its way to becoming a device.
struct MapJob {
    let path: String
    let open: OpenOptions
    let name: String?
    let way: MapCommand.Way
    let workers: Int
    let foreground: Bool

    /// Makes the map; `ready` is told of it, before a foreground map begins to wait.
    func run(_ ready: (MapRecord) throws -> Void) throws {
        switch way {
        case .hybrid, .ublk:
            throw ImageError(
                .unsupported, "--via \(way.rawValue) is not there yet", advice: "use auto, dm or loop", path: path)
        case .dm: try mapByDeviceMapper(ready)
        case .loop: try mapByLoop(ready)
        case .auto:
            if try isForDeviceMapper() { try mapByDeviceMapper(ready) } else { try mapByLoop(ready) }
        }
    }

    /// Whether this kernel and this image suit device-mapper: then no process of ours is in the way of a read.
    private func isForDeviceMapper() throws(ImageError) -> Bool {
        guard DMDoctor().canMap else { return false }
        do throws(ImageError) {
            let chain = try ImageChain.open(path: path, options: open)
            // A raw image is faster still as a plain loop device, which shows its partitions, too.
            let isPlainRaw = chain.layers.count == 1 && chain.layers[0].format == .raw
            guard !isPlainRaw else { return false }
            return try DMMap.obstacle(chain) == nil
        } catch { throw error.named(path) }
    }

    private func mapByDeviceMapper(_ ready: (MapRecord) throws -> Void) throws {
        var options = DMMapOptions(image: path, open: open)
        options.name = name
        let record = try DMMap.map(options)
        notePartitions(record)
        try ready(record)
        guard foreground else { return }
        try waitForEnd()
        try DMMap.unmap(record, deferred: true, registry: options.registry)
    }

    private func mapByLoop(_ ready: (MapRecord) throws -> Void) throws {
        var options = LoopMapOptions(image: path, open: open)
        options.name = name
        options.workers = workers
        options.foreground = foreground
        guard foreground else { return try ready(try LoopExport.map(options)) }
        var failed: (any Error)?
        _ = try LoopExport.map(options) { record in
            do { try ready(record) } catch { failed = error }
        }
        if let failed { throw failed }
    }

    /// Device-mapper devices have no partitions of their own; whoever expects some should know how to get them.
    private func notePartitions(_ record: MapRecord) {
        guard let file = try? HostFile.open(path: record.device),
            let sector = try? file.read(at: HostOffset(0), count: 512), sector.suffix(2) == [0x55, 0xaa]
        else { return }
        Failure.warn(
            "\(printable(path)): it may have partitions: `kpartx -a \(record.device)` shows them, and so does --via loop"
        )
    }

    private func waitForEnd() throws {
        let signals: SignalFD
        do { signals = try SignalFD([SIGTERM, SIGINT]) } catch {
            throw Failure("cannot take in signals: \(error)")
        }
        while true {
            var entry = pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0)
            poll(&entry, 1, -1)
            if signals.next() != nil { return }
        }
    }
}
