// Each kind of target is driven for real, and the planted fault is found on each way to the disk.
import DiskTypes
import Foundation
import TestKit
import Testing
@testable import BlockBench
import SystemPackage

// One after another: a process that another test is about to start has this one's locks until its exec.
@Suite(.serialized)
struct TargetTests {
    private static func disk(_ bytes: Int = 4 << 20) throws -> String {
        let path = try Scratch.newFile("disk")
        truncate(path, off_t(bytes))
        return path
    }
    private static func options(_ pattern: AccessPattern, _ change: (inout BenchOptions) -> Void = { _ in })
        -> BenchOptions
    {
        var options = BenchOptions()
        options.pattern = pattern
        options.depth = 16
        options.requests = 2000
        options.seconds = 60
        options.destroy = pattern.writes
        options.open.format = .raw
        change(&options)
        return options
    }
    /// One byte changed, as a bad disk would.
    private static func spoil(_ path: String, at offset: Int) throws {
        let file = try FileHandle(forUpdating: URL(filePath: path))
        try file.seek(toOffset: UInt64(offset))
        let old = try #require(try file.read(upToCount: 1)?.first)
        try file.seek(toOffset: UInt64(offset))
        try file.write(contentsOf: Data([old ^ 0x10]))
    }

    @Test("a file takes exactly the requests that were ordered", arguments: AccessPattern.allCases)
    func file(pattern: AccessPattern) throws {
        let report = try BlockBench.run(try FilePath(Self.disk()), Self.options(pattern) { $0.queues = 2 })
        #expect(report.requests == 2000 && report.errors == 0)
        #expect(pattern.reads ? report.reads > 0 : report.reads == 0)
        #expect(pattern.writes ? report.writes > 0 : report.writes == 0)
        #expect(report.latency.minimum > 0 && report.latency.minimum <= report.latency.p50)
        #expect(report.latency.p50 <= report.latency.p999 && report.latency.p999 <= report.latency.maximum)
        #expect(report.clientCPU > 0 && report.serverCPU == nil)
    }

    @Test("a run ends in time")
    func time() throws {
        let report = try BlockBench.run(
            try FilePath(Self.disk()),
            Self.options(.randread) {
                $0.requests = nil
                $0.seconds = 0.3
            })
        #expect(report.seconds >= 0.25 && report.seconds < 5 && report.requests > 0)
    }

    @Test("a run ends when it is told to")
    func cancelled() throws {
        let report = try BlockBench.run(try FilePath(Self.disk()), Self.options(.randread) { $0.requests = nil }) {
            true
        }
        #expect(report.wasInterrupted && report.seconds < 30)
    }

    @Test("nothing is written without permission", arguments: [AccessPattern.randwrite, .write, .randrw])
    func permission(pattern: AccessPattern) throws {
        let path = try Self.disk()
        let error = #expect(throws: ImageError.self) {
            try BlockBench.run(FilePath(path), Self.options(pattern) { $0.destroy = false })
        }
        #expect(error?.description.contains("--destroy") == true)
        #expect(try Data(contentsOf: URL(filePath: path)).allSatisfy { $0 == 0 })
    }

    @Test("a file that is overwritten must be called raw")
    func guessing() throws {
        let path = try Self.disk()
        let error = #expect(throws: ImageError.self) {
            try BlockBench.run(FilePath(path), Self.options(.write) { $0.open.format = nil })
        }
        #expect(error?.description.contains("-f raw") == true)
    }

    @Test("verified writes are all read back", arguments: [AccessPattern.randwrite, .write, .randrw])
    func verified(pattern: AccessPattern) throws {
        let report = try BlockBench.run(
            try FilePath(Self.disk()),
            Self.options(pattern) {
                $0.verify = true
                $0.queues = 2
            })
        #expect(report.mismatch == nil && report.errors == 0)
        #expect(report.checked > 0)
    }

    @Test("a changed byte is found at its place", arguments: [0, 1_000_003, (4 << 20) - 1])
    func planted(offset: Int) throws {
        let path = try Self.disk()
        let write = Self.options(.write) {
            $0.verify = true
            $0.requests = 1024
        }
        #expect(try BlockBench.run(FilePath(path), write).mismatch == nil)
        let read = Self.options(.read) {
            $0.verify = true
            $0.requests = 1024
        }
        let clean = try BlockBench.run(FilePath(path), read)
        #expect(clean.mismatch == nil && clean.checked == 1024)
        try Self.spoil(path, at: offset)
        let mismatch = try #require(try BlockBench.run(FilePath(path), read).mismatch)
        #expect(mismatch.offset / 512 == UInt64(offset) / 512)
    }

    @Test("what another seed wrote is a mismatch")
    func otherSeed() throws {
        let path = try Self.disk()
        let write = Self.options(.write) {
            $0.verify = true
            $0.requests = 1024
        }
        _ = try BlockBench.run(FilePath(path), write)
        let report = try BlockBench.run(
            FilePath(path),
            Self.options(.read) {
                $0.verify = true
                $0.seed = 2
            })
        #expect(report.mismatch?.found == .otherRun(seed: 1))
    }

    @Test("a disk too small for the depth is refused")
    func tooSmall() throws {
        let path = try Self.disk(4096)
        #expect(throws: ImageError.self) {
            try BlockBench.run(FilePath(path), Self.options(.randread) { $0.queues = 2 })
        }
    }

    @Test("what is no disk is refused")
    func noDisk() {
        #expect(throws: ImageError.self) { try BlockBench.run("/tmp", Self.options(.randread)) }
        #expect(throws: ImageError.self) { try BlockBench.run("/nowhere", Self.options(.randread)) }
    }

    @Test("options that make no sense are refused")
    func nonsense() {
        let changes: [(inout BenchOptions) -> Void] = [
            { $0.blockBytes = 1000 }, { $0.blockBytes = 0 }, { $0.blockBytes = .max }, { $0.depth = 0 },
            { $0.depth = 1025 }, { $0.queues = 0 }, { $0.queues = 65 }, { $0.seconds = 0 }, { $0.seconds = .nan },
            { $0.readPercent = 101 }, { $0.batch = 17 },
            {
                $0.blockBytes = 16 << 20
                $0.depth = 1024
            },
        ]
        for change in changes { #expect(Self.options(.read, change).problem != nil) }
        #expect(Self.options(.read).problem == nil)
    }

    // MARK: qcow2

    @Test("a qcow2 image is read by the engine", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
    func qcow2() throws {
        let folder = try Scratch.newFolder("bench")
        let path = folder + "/disk.qcow2"
        try Command(["qemu-img", "create", "-q", "-f", "qcow2", path, "4M"]).succeed()
        try Command(["qemu-io", "-c", "write -P 3 0 4M", path]).succeed()
        let report = try BlockBench.run(FilePath(path), Self.options(.randread) { $0.open.format = nil })
        #expect(report.requests == 2000 && report.errors == 0)
        #expect(report.way.contains("qcow2"))
    }

    // MARK: sockets

    @Test(
        "a socket takes every pattern, verified",
        .enabled(if: StorageDaemon.isThere, "\(StorageDaemon.reason)"),
        arguments: AccessPattern.allCases, WaitMode.allCases)
    func socket(pattern: AccessPattern, wait: WaitMode) throws {
        let daemon = try StorageDaemon(try Self.disk(), queues: 2)
        let report = try BlockBench.run(
            FilePath(daemon.socket),
            Self.options(pattern) {
                $0.queues = 2
                $0.wait = wait
                $0.verify = pattern.writes
            })
        #expect(report.requests == 2000 && report.errors == 0 && report.mismatch == nil)
        #expect(report.serverPID == daemon.pid)
        #expect(report.serverCPU.map { $0 > 0 } == true)
        #expect(!pattern.writes || report.checked > 0)
    }

    @Test(
        "depth 1 and large blocks go through a socket", .enabled(if: StorageDaemon.isThere, "\(StorageDaemon.reason)"),
        arguments: [512, 65536, 1 << 20])
    func socketSizes(blockBytes: Int) throws {
        let daemon = try StorageDaemon(try Self.disk(16 << 20))
        let report = try BlockBench.run(
            FilePath(daemon.socket),
            Self.options(.randrw) {
                $0.depth = 1
                $0.blockBytes = blockBytes
                $0.requests = 200
                $0.verify = true
            })
        #expect(report.requests == 200 && report.errors == 0 && report.mismatch == nil)
    }

    @Test("a changed byte behind a socket is found", .enabled(if: StorageDaemon.isThere, "\(StorageDaemon.reason)"))
    func plantedBehindSocket() throws {
        let path = try Self.disk()
        let daemon = try StorageDaemon(path)
        let write = Self.options(.write) {
            $0.verify = true
            $0.requests = 1024
        }
        #expect(try BlockBench.run(FilePath(daemon.socket), write).mismatch == nil)
        try Self.spoil(path, at: 2_000_000)
        let read = Self.options(.randread) {
            $0.verify = true
            $0.requests = 20_000
        }
        let mismatch = try #require(try BlockBench.run(FilePath(daemon.socket), read).mismatch)
        #expect(mismatch.offset / 512 == 2_000_000 / 512)
    }

    @Test("a read-only socket refuses writes", .enabled(if: StorageDaemon.isThere, "\(StorageDaemon.reason)"))
    func readOnlySocket() throws {
        let daemon = try StorageDaemon(try Self.disk(), writable: false)
        let error = #expect(throws: ImageError.self) {
            try BlockBench.run(FilePath(daemon.socket), Self.options(.write))
        }
        #expect(error?.description.contains("read-only") == true)
    }

    @Test("more queues than there are is an error", .enabled(if: StorageDaemon.isThere, "\(StorageDaemon.reason)"))
    func queues() throws {
        let daemon = try StorageDaemon(try Self.disk())
        let error = #expect(throws: ImageError.self) {
            try BlockBench.run(FilePath(daemon.socket), Self.options(.randread) { $0.queues = 2 })
        }
        #expect(error?.description.contains("has 1 queues") == true)
    }

    @Test(
        "a server killed in the run is an error, not a hang",
        .enabled(if: StorageDaemon.isThere, "\(StorageDaemon.reason)"))
    func killed() throws {
        let daemon = try StorageDaemon(try Self.disk())
        let pid = daemon.pid
        var asked = 0
        let error = #expect(throws: ImageError.self) {
            try BlockBench.run(FilePath(daemon.socket), Self.options(.randread) { $0.requests = nil }) {
                asked += 1
                if asked == 50 { kill(pid, SIGKILL) }
                return false
            }
        }
        #expect(error != nil)
    }
}
