// What was acknowledged and is gone must be said, by the command that finds it out, and nothing else may be said.
import DiskTypes
import Glibc
import LinuxIO
import MapRegistry
import Synchronization
import TestKit
import Testing

@testable import FuseExport

@Suite(.serialized, .enabled(if: LoopBench.isPossible, "\(LoopBench.reason)")) struct LoopLossTests {
    private func killBoth(_ bench: LoopBench, _ record: MapRecord) throws {
        let processes = [try bench.current(record).supervisor, try bench.current(record).server]
        for process in processes { try #require(process).kill(SIGKILL) }
        for process in processes { #expect(try #require(process).waitForEnd(milliseconds: 30_000)) }
    }

    private func mapped(_ bench: LoopBench, writes: Bool, readOnly: Bool = false) throws -> MapRecord {
        try bench.workshop.create("8M", as: "a.qcow2")
        let record = try bench.map("a.qcow2", readOnly: readOnly)
        if writes {
            try bench.workshop.rawFile("noise", 1 << 20)
            try bench.workshop.run("dd", "if=noise", "of=\(record.device)", "bs=64k", "oflag=direct", "status=none")
        }
        return record
    }

    @Test(arguments: [true, false]) func whatBothProcessesTookWithThemIsSaid(deferred: Bool) throws {
        try LoopBench.run { bench in
            let record = try mapped(bench, writes: true)
            try killBoth(bench, record)
            let error = #expect(throws: ImageError.self) { try bench.unmap(record, deferred: deferred) }
            #expect(error?.what.contains("since the last sync may be lost") == true, "\(String(describing: error))")
            #expect(try bench.registry.all().isEmpty, "it is gone all the same")
        }
    }

    @Test(arguments: [true, false]) func whereNothingWasWrittenNothingIsSaid(readOnly: Bool) throws {
        try LoopBench.run { bench in
            let record = try mapped(bench, writes: false, readOnly: readOnly)
            try bench.workshop.run("dd", "if=\(record.device)", "of=/dev/null", "bs=1M", "status=none")
            try killBoth(bench, record)
            try bench.unmap(record)
        }
    }

    /// An image that was cut under its map cannot be saved through the device: `unmap` says what does, and takes the map down.
    @Test(arguments: ["qcow2", "raw"], [false, true])
    func aCutImageIsGivenUpAndSaid(format: String, isServerKilled: Bool) throws {
        try LoopBench.run { bench in
            let builder = bench.workshop
            try builder.rawFile("noise", 4 << 20)
            try builder.img("convert", "-O", format, "noise", "a.img")
            let record = try bench.map("a.img", raw: format == "raw", plain: false, readOnly: false)
            try builder.run("dd", "if=noise", "of=\(record.device)", "bs=64k", "count=8", "conv=fsync", "status=none")
            try builder.run("truncate", "-s", "1M", "a.img")
            if isServerKilled {
                try #require(record.server).kill(SIGKILL)
                let read = try Command(["dd", "if=\(record.device)", "of=/dev/null", "bs=1M", "iflag=direct"]).run()
                #expect(read.exit == 1 && !read.timedOut, "\(read)")
            } else {
                let write = ["dd", "if=noise", "of=\(record.device)", "bs=64k", "oflag=direct", "conv=fsync"]
                let written = try Command(write, in: builder.folder).run()
                #expect(written.exit == 1 && written.errors.contains("Input/output error"), "\(written)")
                for _ in 0..<40 where try bench.current(record).health != .failed { usleep(100_000) }
                #expect(try bench.current(record).health == .failed)
            }
            let error = #expect(throws: ImageError.self) { try bench.unmap(record) }
            #expect(error?.what.contains("the map was given up") == true, "\(String(describing: error))")
            let advice = error?.advice ?? ""
            #expect(advice.contains("qblk convert --salvage -f \(format) "), "\(advice)")
            #expect(try bench.registry.all().isEmpty, "it is gone all the same")
            let salvage = try qblk("convert", "--salvage", "-f", format, "-O", "raw", "a.img", "o", in: builder.folder)
            #expect(salvage.exit == 0, "\(salvage)")
            try builder.run("cmp", "-n", "524288", "o", "noise")
        }
    }

    @Test func theNextMapSaysWhatItTakesDown() throws {
        try LoopBench.run { bench in
            let record = try mapped(bench, writes: true)
            try killBoth(bench, record)
            let notices = Notices()
            let next = try bench.map("a.qcow2", readOnly: false, notices: notices)
            #expect(next.name == record.name)
            #expect(notices.all.filter { $0.contains("may be lost") }.count == 1, "\(notices.all)")
        }
    }

    /// The mapping of what was written is in the supervisor's memory alone: it takes one more server to write it down.
    @Test func aMapThatGoesWhileItHasNoServerLosesNothing() throws {
        try LoopBench.run { bench in
            let record = try mapped(bench, writes: true)
            let supervisor = try #require(record.supervisor)
            for _ in 0..<6 {
                guard let server = try bench.registry.record(of: record.name)?.server else { continue }
                try server.kill(SIGKILL)
                usleep(120_000)
            }
            try bench.unmap(record, deferred: true)
            #expect(try supervisor.waitForEnd(milliseconds: 60_000))
            for _ in 0..<600 where bench.hasFolders { usleep(50_000) }
            try bench.workshop.img("convert", "-f", "qcow2", "-O", "raw", "a.qcow2", "after.raw")
            try bench.workshop.run("cmp", "-n", "1048576", "after.raw", "noise")
        }
    }

    @Test func aLongWaitIsToldOnceAndAShortOneNever() throws {
        let notices = Notices()
        WaitNotice.during("short", notices.add) { usleep(10_000) }
        WaitNotice.during("long", notices.add) { usleep(1_400_000) }
        usleep(100_000)
        #expect(notices.all == ["long"])
    }

    /// Containers and services begin with a copy of all mounts, and with it of the map's.
    @Test(.timeLimit(.minutes(1))) func anotherMountNamespaceDoesNotHoldAMapUp() throws {
        try LoopBench.run { bench in
            let record = try mapped(bench, writes: true)
            var other = try Command(["unshare", "-m", "sleep", "300"]).spawn()
            defer { other.end() }
            try other.waitUntilIt(runs: "sleep")
            let began = MonotonicClock.milliseconds()
            try bench.unmap(record)
            #expect(MonotonicClock.milliseconds() - began < 20_000)
            try bench.workshop.img("convert", "-f", "qcow2", "-O", "raw", "a.qcow2", "after.raw")
            try bench.workshop.run("cmp", "-n", "1048576", "after.raw", "noise")
        }
    }

    @Test func theServerHoldsItsMemoryAndSeesNoMounts() throws {
        try LoopBench.run { bench in
            let record = try mapped(bench, writes: true)
            let server = try #require(record.server).pid
            let threads = Filesystem.listIfThere("/proc/\(server)/task")
            #expect(threads.count >= 2)
            for thread in threads {
                let stat = Filesystem.readIfThere("/proc/\(server)/task/\(thread)/stat") ?? ""
                let fields = stat.drop { $0 != ")" }.split(separator: " ")
                // PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE: what PR_SET_IO_FLUSHER sets (include/linux/sched.h).
                let flags = UInt64(fields[7]) ?? 0
                #expect(flags & 0x180000 == (Privileges.has(.sysResource) ? 0x180000 : 0), "thread \(thread) \(stat)")
            }
            #expect(Filesystem.readIfThere("/proc/\(server)/mountinfo") == "")
            let mine = try Command(["readlink", "/proc/self/ns/mnt"]).succeed().output
            #expect(try Command(["readlink", "/proc/\(server)/ns/mnt"]).succeed().output != mine)
            #expect(try Command(["readlink", "/proc/\(record.supervisor?.pid ?? 0)/ns/mnt"]).succeed().output == mine)
            // Under load nothing is touched for the first time.
            let before = faults(server)
            for turn in 0..<3 {
                try bench.workshop.run(
                    "dd", "if=noise", "of=\(record.device)", "bs=64k", "seek=\(20 + 16 * turn)", "oflag=direct",
                    "status=none")
                try bench.workshop.run(
                    "dd", "if=\(record.device)", "of=/dev/null", "bs=1M", "iflag=direct", "status=none")
                try bench.workshop.run("sync", record.device)
            }
            #expect(faults(server) - before <= 8, "\(faults(server) - before) page faults")
        }
    }

    /// Minor and major faults of all threads of a process.
    private func faults(_ pid: Int32) -> Int {
        Filesystem.listIfThere("/proc/\(pid)/task").reduce(0) { sum, thread in
            let stat = Filesystem.readIfThere("/proc/\(pid)/task/\(thread)/stat") ?? ""
            let fields = stat.drop { $0 != ")" }.split(separator: " ")
            return sum + (Int(fields[8]) ?? 0) + (Int(fields[10]) ?? 0)
        }
    }
}

/// What was noticed.
final class Notices: Sendable {
    private let lines = Mutex<[String]>([])
    var all: [String] { lines.withLock { $0 } }
    @Sendable func add(_ line: String) { lines.withLock { $0.append(line) } }
}
