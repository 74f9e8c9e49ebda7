// The loop door against the real kernel: content, crashes, refusals, and that nothing stays behind.
import DiskTypes
import Foundation
import FuseExport
import Glibc
import LinuxIO
import MapRegistry
import TestKit
import Testing
import SystemPackage

@Suite(.serialized, .enabled(if: LoopBench.isPossible, "\(LoopBench.reason)")) struct LoopMapTests {
    @Test(arguments: [("", 1), ("-c", 1), ("", 2)])
    func contentIsTheImages(option: String, workers: Int) throws {
        try LoopBench.run { bench in
            try bench.workshop.rawFile("a.raw", 20 << 20)
            try bench.workshop.run(
                "qemu-img", "convert", "-O", "qcow2", option.isEmpty ? "-q" : option, "a.raw", "a.qcow2")
            let record = try bench.map("a.qcow2", workers: workers)
            #expect(record.size == 20 << 20 && record.health == .alive && record.device.hasPrefix("/dev/loop"))
            #expect(try differenceOfFiles(record.device, bench.workshop.path("a.raw")) == nil)
            try bench.workshop.run("dd", "if=\(record.device)", "of=b.raw", "bs=1M", "iflag=direct", "status=none")
            #expect(try differenceOfFiles(bench.workshop.path("b.raw"), bench.workshop.path("a.raw")) == nil)
            #expect(try LoopDevice.open(try #require(record.loops.first)).status()?.isReadOnly == true)
            try bench.unmap(record)
        }
    }

    @Test(arguments: [512, 513, 1_048_576 + 700, 3 << 20])
    func oddSizes(size: Int) throws {
        try LoopBench.run { bench in
            try bench.workshop.rawFile("a.raw", size)
            let rounded = (size + 511) / 512 * 512
            for plain in [true, false] {
                let record = try bench.map("a.raw", raw: true, plain: plain)
                #expect(record.size == UInt64(rounded))
                #expect((record.server == nil) == (plain && size % 512 == 0), "the plain way where it is possible")
                try bench.workshop.run("dd", "if=\(record.device)", "of=b.raw", "bs=512", "status=none")
                #expect(try fileSize(bench.workshop.path("b.raw")) == rounded)
                try bench.workshop.run("cmp", "-n", "\(size)", "a.raw", "b.raw")
                try bench.unmap(record)
            }
        }
    }

    @Test func aPlainDeviceIsKnownByItsFileNotItsName() throws {
        try LoopBench.run { bench in
            try bench.workshop.rawFile("a.raw", 1 << 20)
            let record = try bench.map("a.raw", raw: true)
            #expect(record.server == nil && record.supervisor == nil)
            try bench.workshop.run("mv", "a.raw", "b.raw")
            #expect(record.health == .alive)
            try LoopExport.cleanUp(bench.registry)
            #expect(try bench.current(record).health == .alive)
            // Another user of the number is not the map's.
            try bench.workshop.rawFile("c.raw", 1 << 20)
            try bench.workshop.run("losetup", "-d", record.device)
            try bench.workshop.run("losetup", record.device, "c.raw")
            #expect(record.health == .dead)
            try bench.unmap(record)
            #expect(try LoopDevice.open(try #require(record.loops.first)).status() != nil)
            try bench.workshop.run("losetup", "-d", record.device)
        }
    }

    @Test(.enabled(if: DeadLoop.isPossible, "\(DeadLoop.reason)"))
    func aBrokenDeviceOfAnotherProgramIsInNobodysWay() throws {
        let broken = try DeadLoop()
        #expect(throws: ImageError.self) { try LoopDevice.open(broken.number).status() }
        try LoopBench.run { bench in
            try bench.workshop.rawFile("a.raw", 2 << 20)
            try bench.workshop.img("convert", "-O", "qcow2", "a.raw", "a.qcow2")
            for record in [try bench.map("a.qcow2"), try bench.map("a.raw", raw: true)] {
                #expect(try differenceOfFiles(record.device, bench.workshop.path("a.raw")) == nil)
                #expect(record.health == .alive)
            }
            // What a killed `map` leaves without a record is looked for among all loop devices.
            try Filesystem.makeDirectory("\(bench.registry.folder)/half")
            try LoopExport.cleanUp(bench.registry)
        }
        #expect(LoopDevice.backingFile(broken.number) == FilePath(broken.file), "it is still there")
    }

    @Test(.enabled(if: DeadLoop.isPossible, "\(DeadLoop.reason)"))
    func ourOwnDeviceThatCannotAnswerIsNotGone() throws {
        let broken = try DeadLoop()
        try LoopBench.run { bench in
            var record = MapRecord(
                name: "plain", image: FilePath(broken.file), format: "raw", size: 1 << 20, how: .loop,
                device: "/dev/loop\(broken.number)", readOnly: true, created: 0)
            record.loops = [broken.number]
            // As of a plain map of a raw image on a file system that another program serves.
            (record.backingDevice, record.backingInode) = (0x39, 1)
            #expect(record.health == .alive)
            try bench.registry.create("plain").write(record)
            try bench.unmap(record)
            #expect(LoopDevice.backingFile(broken.number) != FilePath(broken.file))
        }
    }

    @Test func twoMapsAtOnce() throws {
        try LoopBench.run { bench in
            try bench.workshop.rawFile("a.raw", 2 << 20, seed: 1)
            try bench.workshop.rawFile("b.raw", 2 << 20, seed: 2)
            for name in ["a", "b"] { try bench.workshop.img("convert", "-O", "qcow2", "\(name).raw", "\(name).qcow2") }
            let first = try bench.map("a.qcow2")
            let second = try bench.map("b.qcow2")
            let again = try bench.map("a.qcow2", name: "again")
            #expect(Set([first, second, again].map(\.device)).count == 3)
            for (record, file) in [(first, "a.raw"), (second, "b.raw"), (again, "a.raw")] {
                #expect(try differenceOfFiles(record.device, bench.workshop.path(file)) == nil)
            }
            let error = #expect(throws: ImageError.self) { _ = try bench.map("a.qcow2") }
            #expect(error?.description.contains("there already") == true)
        }
    }

    @Test func aDeviceInUseIsNotTakenAway() throws {
        try LoopBench.run { bench in
            try bench.workshop.rawFile("a.raw", 2 << 20)
            try bench.workshop.img("convert", "-O", "qcow2", "a.raw", "a.qcow2")
            let record = try bench.map("a.qcow2")
            var user = try Command(["sh", "-c", "exec sleep 60 < \(record.device)"]).spawn()
            try user.waitUntilIt(runs: "sleep")
            let error = #expect(throws: ImageError.self) { try bench.unmap(record) }
            #expect(error?.description.contains("in use (open in sleep") == true, "\(error?.description ?? "")")
            #expect(try bench.current(record).health == .alive)
            try bench.unmap(record, deferred: true)
            #expect(record.health == .alive, "a process still reads it")
            #expect(try differenceOfFiles(record.device, bench.workshop.path("a.raw")) == nil)
            user.end()
            // The record goes first, the map's folder last.
            for _ in 0..<600 where bench.hasFolders { usleep(50_000) }
            try bench.expectNothingLeft()
        }
    }

    @Test func imagesThatCannotBeOpenedLeaveNothing() throws {
        try LoopBench.run { bench in
            try bench.workshop.rawFile("a.raw", 65536)
            #expect(throws: ImageError.self) { _ = try bench.map("a.raw") }
            #expect(throws: ImageError.self) { _ = try bench.map("missing.qcow2") }
            #expect(throws: ImageError.self) { _ = try bench.map("a.raw", raw: true, name: "../x") }
            try bench.expectNothingLeft()
        }
    }
}

@Suite(.serialized, .enabled(if: LoopBench.isPossible && Tools.have("fio"), "\(LoopBench.reason), fio"))
struct LoopCrashTests {
    /// A qcow2 image that fio wrote its checksums into.
    private func verified(_ bench: LoopBench) throws -> MapRecord {
        try bench.workshop.run(
            "fio", "--name=w", "--filename=v.raw", "--size=64M", "--rw=write", "--bs=4k", "--verify=crc32c",
            "--do_verify=0", "--ioengine=psync")
        try bench.workshop.img("convert", "-O", "qcow2", "v.raw", "v.qcow2")
        return try bench.map("v.qcow2")
    }

    @Test func readersDoNotNoticeThatServersDie() throws {
        try LoopBench.run { bench in
            let record = try verified(bench)
            var reader = try Command([
                "fio", "--name=r", "--filename=\(record.device)", "--size=64M", "--rw=randread", "--bs=4k",
                "--iodepth=32", "--ioengine=io_uring", "--direct=1", "--verify=crc32c", "--verify_fatal=1",
                "--loops=1000",
                "--time_based", "--runtime=4", "--readonly",
            ]).spawn()
            var servers: Set<Int32> = []
            for _ in 0..<5 {
                usleep(500_000)
                // Until the next one is in the record, the last one's entry is that of a dead process.
                for _ in 0..<2000 {
                    if let server = try bench.current(record).server, servers.insert(server.pid).inserted {
                        try server.kill(SIGKILL)
                        break
                    }
                    usleep(10_000)
                }
            }
            let outcome = reader.wait(deadline: 180)
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(servers.count == 5, "the next server is in the record")
            #expect(try differenceOfFiles(record.device, bench.workshop.path("v.raw")) == nil)
        }
    }

    /// In a new qcow2 image nearly every write changes the mapping, in the server's memory first. User-mode Linux fails
    /// requests that a killed process was taking in: it cannot copy to a process that is about to die.
    @Test(
        .disabled(if: ProcessInfo.processInfo.environment["QBLK_GUEST"] == "uml", "needs a kernel with fast GUP"),
        arguments: [true, false])
    func writersDoNotNoticeThatServersDie(raw: Bool) throws {
        try LoopBench.run { bench in
            let image = raw ? "w.raw" : "w.qcow2"
            try bench.workshop.img("create", "-q", "-f", raw ? "raw" : "qcow2", image, "64M")
            let record = try bench.map(image, raw: raw, plain: false, workers: 2, readOnly: false)
            var writer = try Command(
                [
                    "fio", "--name=w", "--filename=\(record.device)", "--size=64M", "--rw=randwrite", "--bs=4k",
                    "--iodepth=32", "--ioengine=libaio", "--direct=1", "--verify=crc32c", "--verify_fatal=1",
                    "--fsync=64",
                    "--loops=3", "--rate_iops=4000",
                ], in: bench.workshop.folder
            ).spawn()
            var servers: Set<Int32> = []
            for _ in 0..<5 {
                usleep(700_000)
                for _ in 0..<2000 {
                    if let server = try bench.current(record).server, servers.insert(server.pid).inserted {
                        try server.kill(SIGKILL)
                        break
                    }
                    usleep(10_000)
                }
            }
            let outcome = writer.wait(deadline: 240)
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(servers.count == 5, "the next server is in the record")
            try bench.workshop.run(
                "dd", "if=\(record.device)", "of=device.raw", "bs=1M", "iflag=direct", "status=none")
            try bench.unmap(record)
            try bench.workshop.img("convert", "-f", raw ? "raw" : "qcow2", "-O", "raw", image, "after.raw")
            #expect(try differenceOfFiles(bench.workshop.path("device.raw"), bench.workshop.path("after.raw")) == nil)
        }
    }

    @Test func aWritingServerKeepsTheLocksOfItsDeadSupervisor() throws {
        try LoopBench.run { bench in
            try bench.workshop.create("1M", as: "a.qcow2")
            let record = try bench.map("a.qcow2", readOnly: false)
            let supervisor = try #require(record.supervisor)
            try supervisor.kill(SIGKILL)
            #expect(try supervisor.waitForEnd(milliseconds: 30_000))
            let write = try Command(["qemu-io", "-f", "qcow2", "-c", "write 0 512", bench.workshop.path("a.qcow2")])
                .run()
            #expect(write.exit != 0 && write.errors.contains("lock"), "\(write)")
            try bench.workshop.rawFile("b.raw", 1 << 20)
            try bench.workshop.run("dd", "if=b.raw", "of=\(record.device)", "bs=64k", "status=none")
            try bench.unmap(record)
            try bench.workshop.img("convert", "-O", "raw", "a.qcow2", "a.raw")
            #expect(try differenceOfFiles(bench.workshop.path("a.raw"), bench.workshop.path("b.raw")) == nil)
        }
    }

    @Test func theServerGoesOnWithoutItsSupervisor() throws {
        try LoopBench.run { bench in
            let record = try verified(bench)
            try #require(record.supervisor).kill(SIGKILL)
            #expect(try #require(record.supervisor).waitForEnd(milliseconds: 30_000))
            #expect(record.health == .degraded)
            #expect(try differenceOfFiles(record.device, bench.workshop.path("v.raw")) == nil)
            try bench.unmap(record)
        }
    }

    @Test func theNextMapCleansUpWhenBothAreDead() throws {
        try LoopBench.run { bench in
            let record = try verified(bench)
            for process in [record.supervisor, record.server] { try #require(process).kill(SIGKILL) }
            for process in [record.supervisor, record.server] {
                #expect(try #require(process).waitForEnd(milliseconds: 30_000))
            }
            let next = try bench.map("v.qcow2")
            #expect(next.name == record.name && next.health == .alive)
            #expect(try differenceOfFiles(next.device, bench.workshop.path("v.raw")) == nil)
        }
    }

    @Test func aMapKilledBeforeItHadARecordIsCleanedUp() throws {
        try LoopBench.run { bench in
            let record = try verified(bench)
            for process in [record.supervisor, record.server] { try #require(process).kill(SIGKILL) }
            for process in [record.supervisor, record.server] {
                #expect(try #require(process).waitForEnd(milliseconds: 30_000))
            }
            // The loop device is attached before the record is written: this is what a kill in between leaves.
            try Filesystem.removeFile("\(bench.registry.folder(of: record.name))/state.json")
            try LoopExport.cleanUp(bench.registry)
            try bench.expectNothingLeft()
        }
    }

    @Test func aSupervisorThatIsToldToStopTakesEverythingDown() throws {
        try LoopBench.run { bench in
            let record = try verified(bench)
            let supervisor = try #require(record.supervisor)
            try supervisor.kill(SIGTERM)
            #expect(try supervisor.waitForEnd(milliseconds: 30_000))
            try bench.expectNothingLeft()
        }
    }
}
