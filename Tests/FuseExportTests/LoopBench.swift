// Tests of maps through loop share a folder with images and a registry of its own, and the claim that nothing stays behind.
import DiskTypes
import FuseExport
import Glibc
import LinuxIO
import MapRegistry
import TestKit
import Testing
import SystemPackage

/// A folder with images, a registry of its own, and the promise that nothing of it is left mounted or attached.
struct LoopBench {
    static let isPossible = Tools.canLoop && Tools.haveQblk && Tools.have("qemu-img")
    static let reason = "\(Tools.loopReason), \(Tools.qblkReason), qemu-img"

    let workshop: ImageBuilder
    let registry: MapRegistry

    static func run(_ body: (LoopBench) throws -> Void) throws {
        try Scratch.withFolder("loop") { folder in
            let bench = LoopBench(
                workshop: ImageBuilder(folder: folder), registry: MapRegistry(folder: FilePath(folder + "/run")))
            defer { bench.takeAllDown() }
            try body(bench)
            for record in try bench.registry.all() { try LoopExport.unmap(record, registry: bench.registry) }
            try bench.expectNothingLeft()
        }
    }

    func map(
        _ image: String, raw: Bool = false, name: String? = nil, plain: Bool = true, workers: Int = 1,
        readOnly: Bool = true, executable: String = Tools.qblk, notices: Notices = Notices()
    ) throws -> MapRecord {
        var options = LoopMapOptions(image: FilePath(workshop.path(image)))
        options.open.format = raw ? .raw : .qcow2
        options.name = name
        options.allowPlain = plain
        options.workers = workers
        options.readOnly = readOnly
        options.registry = registry
        options.executable = FilePath(executable)
        options.notice = notices.add
        return try LoopExport.map(options)
    }

    func unmap(_ record: MapRecord, deferred: Bool = false) throws {
        try LoopExport.unmap(record, deferred: deferred, registry: registry)
    }

    /// The record as it is now: servers change.
    func current(_ record: MapRecord) throws -> MapRecord { try #require(try registry.record(of: record.name)) }

    var hasFolders: Bool { Filesystem.listIfThere(registry.folder).contains { !$0.hasPrefix(".") } }

    func expectNothingLeft() throws {
        #expect(try registry.all().isEmpty)
        #expect(!hasFolders)
        #expect(try MountTable.read().allSatisfy { !$0.mountPoint.isBelow(registry.folder) })
        let loops = try LoopDevice.all().compactMap(\.backingFile)
        #expect(loops.allSatisfy { !$0.isBelow(FilePath(workshop.folder)) }, "\(loops)")
    }

    /// After a failed test, too.
    private func takeAllDown() {
        for record in (try? registry.all()) ?? [] {
            for process in [record.supervisor, record.server] { _ = try? process?.kill(SIGKILL) }
            try? LoopExport.unmap(record, deferred: true, registry: registry)
        }
    }
}
