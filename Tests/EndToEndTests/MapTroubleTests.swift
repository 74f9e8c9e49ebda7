// Servers die, machines are shared and people pull the wrong plug. A dead server costs no I/O error, a dead
// everything is cleaned up by the next command, and a device in use is not taken away.

import Foundation
import TestKit
import Testing

extension MapTests {
    @Suite("Trouble")
    struct Trouble {
        @Test("killing the server under load gives no I/O error", .enabled(if: Tools.have("fio"), "needs fio"))
        func serverKilled() throws {
            let mapping = try Mapping(try Contents.patternImage("compressed"))
            let verify = Contents.fioVerify(mapping.device, ["--time_based", "--runtime=4"])
            var fio = try Command(verify).spawn()
            var killed: Set<pid_t> = []
            for _ in 0..<3 {
                usleep(900_000)
                let server = try #require(try mapping.nextServerPID(after: killed), "list --json names no next server")
                #expect(kill(server, SIGKILL) == 0)
                killed.insert(server)
            }
            let outcome = fio.wait(deadline: 180)
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(try mapping.unmap().exit == 0)
            #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
        }

        @Test("after everything was killed, unmap cleans up")
        func unmapAfterTheEnd() throws {
            let mapping = try Mapping(try ImageTrait.named("chain-of-2").made().path)
            try mapping.killEverything()
            let outcome = try mapping.unmap()
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
            #expect(try mapping.listed() == nil)
        }

        @Test("after everything was killed, map under the same name works")
        func mapAfterTheEnd() throws {
            let image = try ImageTrait.named("chain-of-2").made()
            let dead = try Mapping(image.path)
            try dead.killEverything()
            let mapping = try Mapping(image.path, name: dead.name)
            #expect(try differenceOfFiles(mapping.device, try image.reference()) == nil)
            #expect(try mapping.unmap().exit == 0)
            #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
        }

        @Test("unmap names a stopped supervisor, and a signal ends it", arguments: [SIGINT, SIGTERM])
        func stoppedSupervisor(signal: Int32) throws {
            try Scratch.withFolder { folder in
                let builder = ImageBuilder(folder: folder)
                try builder.create("8M", as: "a.qcow2")
                try builder.rawFile("noise", 1 << 20)
                let mapping = try Mapping(builder.path("a.qcow2"), readOnly: false)
                try builder.run("dd", "if=noise", "of=\(mapping.device)", "bs=64k", "conv=fsync", "status=none")
                let entry = try #require(try mapping.listed())
                let supervisor = pid_t(try #require(entry["supervisor-pid"]?.integer))
                let server = pid_t(try #require(entry["server-pid"]?.integer))
                #expect(kill(supervisor, SIGSTOP) == 0 && kill(server, SIGKILL) == 0)
                defer { kill(supervisor, SIGCONT) }
                var unmap = try Command([Tools.qblk, "unmap", mapping.name]).spawn()
                defer { unmap.end() }
                usleep(2_500_000)
                #expect(unmap.isRunning)
                kill(unmap.pid, signal)
                let outcome = unmap.wait(deadline: 10)
                #expect(outcome.signal == signal && !outcome.timedOut, "\(outcome)")
                #expect(outcome.errorLines.count == 1 && outcome.errors.hasPrefix("qblk note: "), "\(outcome)")
                #expect(outcome.errors.contains("supervisor, stopped"), "\(outcome)")
                #expect(outcome.errors.contains("kill -CONT \(supervisor)\n"), "\(outcome)")
                #expect(kill(supervisor, SIGCONT) == 0)
                // The first one's fsync, which nothing ends, is over by then or has the device open.
                for _ in 0..<100 where try Command(["pgrep", "-x", "qblk-sync"]).run().exit == 0 { usleep(50_000) }
                let second = try mapping.unmap()
                #expect(second.exit == 0, "\(second)")
                #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
                try builder.img("convert", "-f", "qcow2", "-O", "raw", "a.qcow2", "after")
                try builder.run("cmp", "-n", "1048576", "after", "noise")
            }
        }

        @Test("a device in use stays, unless unmap is told to wait for its end")
        func inUse() throws {
            let mapping = try Mapping(try ImageTrait.named("full").made().path)
            var holder = try Command(["sh", "-c", "exec sleep 60 < \(mapping.device)"]).spawn()
            try holder.waitUntilIt(runs: "sleep")
            let refused = try mapping.unmap()
            #expect(refused.exit == 1, "\(refused)")
            #expect(refused.errorLines.count == 1 && refused.errors.hasPrefix("qblk: "), "\(refused)")
            #expect(try Command(["dd", "if=\(mapping.device)", "of=/dev/null", "bs=64k"]).run().exit == 0)
            let deferred = try mapping.unmap("--deferred")
            #expect(deferred.exit == 0, "\(deferred)")
            holder.end()
            #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
        }

        @Test("a mounted device stays", .enabled(if: Contents.tools.isEmpty, "needs \(Contents.tools)"))
        func mounted() throws {
            let mapping = try Mapping(try Contents.image(of: Contents.Disk(kind: "ext4", compressed: false)))
            try Scratch.withFolder { folder in
                try Command(["mount", "-o", "ro", mapping.device, folder]).succeed()
                let refused = try mapping.unmap()
                let names = try? FileManager.default.contentsOfDirectory(atPath: folder)
                try Command(["umount", folder]).succeed()
                #expect(refused.exit == 1 && refused.errorLines.count == 1, "\(refused)")
                #expect(names?.contains("deep") == true)
            }
            #expect(try mapping.unmap().exit == 0)
            #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
        }

        @Test(
            "unmap of what is not mapped is one clear error",
            arguments: ["nobody-mapped-this", "/dev/null", "/nowhere"])
        func nothing(word: String) throws {
            let outcome = try qblk("unmap", word)
            #expect(outcome.exit == 1, "\(outcome)")
            #expect(outcome.errorLines.count == 1 && outcome.errors.hasPrefix("qblk: "), "\(outcome)")
        }

        static let unmappable = [
            "magic", "cluster-bits-63", "l1-past-end-of-file", "unknown-incompatible-bit-63", "backing-missing",
            "backing-self", "backing-fifo", "backing-absolute", "data-file-missing", "image-is-a-fifo",
            "image-is-empty",
            "image-missing", "aes-encrypted",
        ]

        @Test("a map that fails is one clear error and leaves nothing behind", arguments: unmappable)
        func refused(name: String) throws {
            let malformed = try #require(Malformed.all.first { $0.name == name })
            let made = try MadeMalformed(malformed)
            defer { made.remove() }
            let map = Mapping.freshName()
            defer { _ = try? qblk("unmap", map) }
            let outcome = try made.qblk(["map", made.image, "-f", "qcow2", "-r", "--via", "loop", "--name", map])
            #expect(outcome.exit == 1 && !outcome.timedOut, "\(outcome)")
            #expect(outcome.errorLines.count == 1 && outcome.errors.hasPrefix("qblk: "), "\(outcome)")
            #expect(outcome.output.isEmpty, "\(outcome)")
            let listed = try qblk("list", "--json").json().array ?? []
            let isListed = listed.contains { $0["name"]?.string == map }
            #expect(!isListed)
            let isMounted = try Command(["cat", "/proc/self/mountinfo"]).succeed().output.contains(map)
            #expect(!isMounted)
        }
    }
}
