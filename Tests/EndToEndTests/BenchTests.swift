// Scripts rely on bench's JSON and exit codes, and its check of bytes is what says that a server keeps them: on every
// way to the disk, and it must see a planted fault.

import Foundation
import TestKit
import Testing

@Suite("qblk bench", .enabled(if: Tools.haveQblk, "\(Tools.qblkReason)"))
struct BenchTests {
    private static func disk(_ bytes: Int = 4 << 20) throws -> String {
        let path = try Scratch.newFile("disk.raw")
        truncate(path, off_t(bytes))
        return path
    }
    private static let short = ["--iodepth", "8", "--requests", "1000"]
    private static let blocks = ["--iodepth", "8", "--requests", "1024"]

    @Test("the JSON has the numbers that the text has")
    func json() throws {
        let path = try Self.disk()
        let outcome = try qblk(["bench", path, "--json"] + Self.short)
        try #require(outcome.exit == 0, "\(outcome)")
        let report = try outcome.json()
        #expect(report.at("requests")?.integer == 1000 && report.at("reads")?.integer == 1000)
        #expect(report.at("errors")?.integer == 0 && report.at("rw")?.string == "randread")
        for key in ["iops", "bytes-per-second", "runtime-ns", "client-cpu-ns", "latency-ns.mean"] {
            #expect((report.at(key)?.integer ?? 0) > 0, "\(key) is missing")
        }
        let latencies = ["min", "p50", "p90", "p99", "p99.9", "max"].map { report["latency-ns"]?[$0]?.integer ?? -1 }
        #expect(latencies.allSatisfy { $0 > 0 } && latencies == latencies.sorted(), "\(latencies)")
        let text = try qblk(["bench", path] + Self.short)
        #expect(text.exit == 0 && text.output.contains("1000 in") && text.output.contains("IOPS"), "\(text)")
    }

    @Test("a flush follows every so many writes, and is no request")
    func flushes() throws {
        let path = try Self.disk()
        let run = ["bench", path, "-f", "raw", "--rw", "randwrite", "--destroy", "--json", "--flush-every", "32"]
        let outcome = try qblk(run + Self.short)
        try #require(outcome.exit == 0, "\(outcome)")
        let report = try outcome.json()
        #expect(report.at("writes")?.integer == 1000 && report.at("flushes")?.integer == 31, "\(outcome)")
    }

    @Test("writing asks for --destroy, in one line", arguments: ["randwrite", "write", "randrw"])
    func destroy(rw: String) throws {
        let path = try Self.disk()
        let outcome = try qblk(["bench", path, "-f", "raw", "--rw", rw] + Self.short)
        #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
        #expect(outcome.errors.contains("overwrites what is on the disk") && outcome.errors.contains("--destroy"))
        #expect(try Data(contentsOf: URL(filePath: path)).allSatisfy { $0 == 0 })
    }

    @Test("an image that a virtual machine uses is not written to", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
    func locked() throws {
        let path = try Self.disk()
        let daemon = try StorageDaemon(path)
        let outcome = try qblk(["bench", path, "-f", "raw", "--rw", "write", "--destroy"] + Self.short)
        #expect(outcome.exit == 1 && outcome.errors.contains("lock"), "\(outcome) \(daemon.socket)")
    }

    @Test("a changed byte is exit code 1, and told where")
    func planted() throws {
        let path = try Self.disk()
        let write = try qblk(["bench", path, "-f", "raw", "--rw", "write", "--destroy", "--verify"] + Self.blocks)
        try #require(write.exit == 0 && write.output.contains("all right"), "\(write)")
        let read = ["bench", path, "-f", "raw", "--rw", "read", "--verify"] + Self.blocks
        #expect(try qblk(read).exit == 0)
        let file = try FileHandle(forUpdating: URL(filePath: path))
        try file.seek(toOffset: 0x12345)
        try file.write(contentsOf: Data([0xee]))
        let outcome = try qblk(read)
        #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
        #expect(outcome.errors.contains("offset 0x12340 holds damaged data"), "\(outcome)")
        #expect(try qblk(read + ["--json"]).json().at("mismatch.offset")?.integer == 0x12340)
    }

    @Test("a device is not needed to see that a path is none", arguments: ["/", "/dev/null", "/nowhere"])
    func noDisk(path: String) throws {
        let outcome = try qblk(["bench", path] + Self.short)
        #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
    }

    @Test(
        "options out of range are one line",
        arguments: ["--bs=1000", "--iodepth=0", "--queues=65", "--batch=99", "--flush-every=0", "--flush-every=8"])
    func range(option: String) throws {
        let outcome = try qblk("bench", "x", option)
        #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
    }

    // MARK: our own server

    private static func served(
        _ format: String, queues: Int = 2, _ body: (DiskServer, String) throws -> Void
    ) throws {
        try Scratch.withFolder { folder in
            let path = folder + "/disk.\(format)"
            try Command(["qemu-img", "create", "-q", "-f", format, path, "16M"]).succeed()
            // Allocated clusters: writes go in place.
            try Command(["qemu-io", "-f", format, "-c", "write -P 7 0 16M", path]).succeed()
            let server = try DiskServer(path, format: format, socket: folder + "/s", queues: queues)
            try body(server, path)
            if let end = server.stop() { #expect(end.exit == 0, "\(end)") }
        }
    }

    @Test(
        "what our server was given, it gives back",
        .enabled(if: DiskServer.missing == nil && Tools.haveQemu, "\(DiskServer.missing ?? Tools.qemuReason)"),
        arguments: ["raw", "qcow2"], [[], ["--packed"], ["--wait", "interrupt"], ["--packed", "--wait", "interrupt"]])
    func verified(format: String, options: [String]) throws {
        // QEMU's export has no packed rings.
        if DiskServer.isPeer, options.contains("--packed") { return }
        try Self.served(format) { server, _ in
            for rw in ["randwrite", "randrw", "write"] {
                let outcome = try qblk(
                    ["bench", server.socket, "--rw", rw, "--destroy", "--verify", "--queues", "2", "--json"]
                        + ["--iodepth", "32", "--requests", "8000"] + options)
                try #require(outcome.exit == 0, "\(outcome)")
                let report = try outcome.json()
                #expect(report.at("errors")?.integer == 0 && (report.at("checked")?.integer ?? 0) > 0)
                #expect((report.at("server-cpu-ns")?.integer ?? 0) > 0)
            }
        }
    }

    @Test(
        "a byte changed under our server is found",
        .enabled(if: DiskServer.missing == nil && Tools.haveQemu, "\(DiskServer.missing ?? Tools.qemuReason)"))
    func plantedUnderServer() throws {
        try Self.served("raw") { server, path in
            let common = ["--verify", "--iodepth", "16", "--requests", "4096", "--seed", "9"]
            let write = try qblk(["bench", server.socket, "--rw", "write", "--destroy"] + common)
            try #require(write.exit == 0, "\(write)")
            let file = try FileHandle(forUpdating: URL(filePath: path))
            try file.seek(toOffset: 5_000_000)
            try file.write(contentsOf: Data([0, 0, 0, 0, 0, 0, 0, 0]))
            try file.synchronize()
            let read = try qblk(["bench", server.socket, "--rw", "read"] + common)
            #expect(read.exit == 1 && read.errors.contains("offset 0x4c4b40 holds damaged data"), "\(read)")
        }
    }

    @Test(
        "a server that is killed ends the run with one line",
        .enabled(if: DiskServer.missing == nil && Tools.haveQemu, "\(DiskServer.missing ?? Tools.qemuReason)"))
    func killed() throws {
        try Self.served("raw") { server, _ in
            var run = try Command([Tools.qblk, "bench", server.socket, "--seconds", "30"]).spawn()
            usleep(500_000)
            server.kill()
            let outcome = run.wait(deadline: 20)
            #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.contains("closed the connection"), "\(outcome)")
        }
    }
}
