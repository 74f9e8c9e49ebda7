// A map is of files, not of names: whatever is renamed, replaced or cut under it, a server that follows a killed one has
// the files that the first one had, or the disk fails.
import DiskTypes
import FuseExport
import Glibc
import LinuxIO
import MapRegistry
import TestKit
import Testing
import SystemPackage

@Suite(.serialized, .enabled(if: LoopBench.isPossible, "\(LoopBench.reason)")) struct LoopIdentityTests {
    /// Kills the map's server and waits for the next.
    private func killServer(_ bench: LoopBench, _ record: MapRecord) throws {
        let server = try #require(try bench.current(record).server)
        try server.kill(SIGKILL)
        for _ in 0..<2000 where try bench.current(record).server == server { usleep(10_000) }
        #expect(try bench.current(record).server != server)
    }

    @Test(arguments: ["raw", "qcow2"]) func theNextServerHasTheSameImage(format: String) throws {
        try LoopBench.run { bench in
            let builder = bench.workshop
            for (name, seed) in [("a", UInt64(1)), ("b", 2), ("c", 3)] {
                try builder.rawFile("\(name).raw", 4 << 20, seed: seed)
            }
            for name in ["a", "b"] { try builder.img("convert", "-O", format, "\(name).raw", "\(name).img") }
            try builder.run("ln", "a.img", "kept.img")
            try builder.run("cp", "b.img", "canary.img")
            let record = try bench.map("a.img", raw: format == "raw", plain: false, readOnly: false)
            try builder.run("dd", "if=c.raw", "of=\(record.device)", "bs=1M", "count=1", "conv=fsync", "status=none")
            try builder.run("mv", "b.img", "a.img")
            try killServer(bench, record)
            try builder.run(
                "dd", "if=c.raw", "of=\(record.device)", "bs=1M", "skip=1", "seek=1", "count=1", "status=none")
            try bench.unmap(record)
            try builder.run("cmp", "a.img", "canary.img")
            try builder.img("convert", "-f", format, "-O", "raw", "kept.img", "after.raw")
            try builder.run("cmp", "-n", "2097152", "after.raw", "c.raw")
            try builder.run("sh", "-c", "tail -c 2097152 after.raw | cmp - <(tail -c 2097152 a.raw)".inBash)
        }
    }

    @Test(arguments: ["base.raw", "mid.qcow2", "top.data"]) func theNextServerHasTheSameReferences(file: String) throws
    {
        try LoopBench.run { bench in
            let builder = bench.workshop
            try builder.rawFile("base.raw", 2 << 20)
            try builder.create("2M", backing: "raw:base.raw", as: "mid.qcow2")
            try builder.io(["write -P 7 256k 64k"], on: "mid.qcow2")
            try builder.create("2M", "data_file=top.data", backing: "qcow2:mid.qcow2", as: "top.qcow2")
            try builder.io(["write -P 9 512k 64k"], on: "top.qcow2")
            try builder.img("convert", "-O", "raw", "top.qcow2", "expected.raw")
            let record = try bench.map("top.qcow2")
            try builder.run("sh", "-c", "head -c $(stat -c %s \(file)) /dev/urandom >new; mv new \(file)")
            try killServer(bench, record)
            try builder.run("dd", "if=\(record.device)", "of=device.raw", "bs=1M", "iflag=direct", "status=none")
            #expect(try differenceOfFiles(builder.path("device.raw"), builder.path("expected.raw")) == nil)
        }
    }

    @Test func whatIsCutBeforeTheNextServerIsAnErrorNotZeros() throws {
        try LoopBench.run { bench in
            let builder = bench.workshop
            try builder.rawFile("base.raw", 2 << 20)
            try builder.create("2M", backing: "raw:base.raw", as: "top.qcow2")
            let record = try bench.map("top.qcow2")
            try builder.run("truncate", "-s", "1M", "base.raw")
            try #require(record.server).kill(SIGKILL)
            let read = try Command(["dd", "if=\(record.device)", "of=/dev/null", "bs=4k", "iflag=direct"]).run()
            #expect(read.exit == 1 && read.errors.contains("error"), "\(read)")
            try bench.unmap(record)
        }
    }

    /// The supervisor is a process that is started after the image was opened and looked at.
    @Test func aRenameWhileAMapIsMadeChangesNothing() throws {
        try LoopBench.run { bench in
            let builder = bench.workshop
            for (name, seed) in [("a", UInt64(1)), ("b", 2)] {
                try builder.rawFile("\(name).raw", 1 << 20, seed: seed)
                try builder.img("convert", "-O", "qcow2", "\(name).raw", "\(name).qcow2")
            }
            try builder.run(
                "sh", "-c",
                """
                printf '#!/bin/sh\\ntest ! -e b.qcow2 || mv b.qcow2 a.qcow2\\nexec %s "$@"\\n' \(Tools.qblk) >late
                sed -i "s#b.qcow2#$PWD/b.qcow2#g; s# a.qcow2# $PWD/a.qcow2#" late; chmod +x late
                """)
            let record = try bench.map("a.qcow2", executable: builder.path("late"))
            #expect(!Filesystem.exists(FilePath(builder.path("b.qcow2"))), "it was renamed")
            #expect(try differenceOfFiles(record.device, builder.path("a.raw")) == nil)
        }
    }

    @Test func filesOfOneNameGetMapsOfTwoNames() throws {
        try LoopBench.run { bench in
            let builder = bench.workshop
            for (name, seed) in [("a", UInt64(1)), ("b", 2)] {
                try builder.run("mkdir", name)
                try builder.rawFile("\(name)/raw", 1 << 20, seed: seed)
                try builder.img("convert", "-O", "qcow2", "\(name)/raw", "\(name)/disk.qcow2")
            }
            let first = try bench.map("a/disk.qcow2")
            let second = try bench.map("b/disk.qcow2")
            #expect(first.name == "disk.qcow2" && second.name == "disk.qcow2-2")
            #expect(try differenceOfFiles(second.device, builder.path("b/raw")) == nil)
            let again = #expect(throws: ImageError.self) { _ = try bench.map("a/disk.qcow2") }
            #expect(again?.description.contains("there already") == true)
            // The file is meant, by whatever name.
            try builder.run("sh", "-c", "mv a/disk.qcow2 moved.qcow2; cp b/disk.qcow2 a/disk.qcow2")
            #expect(try bench.registry.find(FilePath(builder.path("moved.qcow2")))?.name == first.name)
            #expect(try bench.registry.find(FilePath(builder.path("a/disk.qcow2"))) == nil)
        }
    }
}

extension String {
    /// The script as an argument of `sh -c`, run by bash.
    fileprivate var inBash: String { "exec bash -c '\(self)'" }
}
