// What a shell's loop, nohup and `kill -USR1` expect: a verb that a signal ended has ended by it, what was ignored stays
// ignored, and a question for the progress ends nothing. A conversion at a low rate is what is interrupted.

import Foundation
import TestKit
import Testing

@Suite("Signals", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct SignalTests {
    /// Runs `body` with a conversion that would take half a minute, once it has begun to write.
    private func withConversion(
        _ options: [String] = [], through words: [String] = [], _ body: (inout RunningCommand, String) throws -> Void
    ) throws {
        try Scratch.withFolder { folder in
            try Command(["sh", "-c", "head -c 128M /dev/zero | tr '\\0' x >source"], in: folder).succeed()
            let line = [Tools.qblk, "convert", "-r", "4M", "-f", "raw", "-O", "raw"] + options + ["source", "out"]
            var running = try Command(words + line, in: folder).spawn()
            defer { running.end() }
            try running.waitUntilIt(runs: "qblk")
            let end = Date.now + 20
            while (try? fileSize("\(folder)/out")) ?? 0 == 0, Date.now < end { usleep(10_000) }
            try body(&running, folder)
        }
    }

    @Test("a conversion ends by the signal that interrupted it, after its line", arguments: [SIGINT, SIGTERM, SIGHUP])
    func interrupted(signal: Int32) throws {
        try withConversion { running, _ in
            kill(running.pid, signal)
            let outcome = running.wait(deadline: 20)
            #expect(outcome.signal == signal, "\(outcome)")
            #expect(outcome.errorLines.count == 1 && outcome.errors.contains("interrupted"), "\(outcome)")
            #expect(outcome.errors.contains("out is incomplete"), "\(outcome)")
        }
    }

    @Test("bench and serve end by SIGINT, serve ends well on SIGTERM")
    func servers() throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("16M", as: "disk.qcow2")
            let bench = ["bench", "--seconds", "60", "disk.qcow2"]
            let serve = ["serve", "disk.qcow2", "--socket-path", "s"]
            for (words, signal) in [(bench, SIGINT), (bench, SIGTERM), (serve, SIGINT), (serve, SIGTERM)] {
                var running = try Command([Tools.qblk] + words, in: folder).spawn()
                defer { running.end() }
                try running.waitUntilIt(runs: "qblk")
                usleep(500_000)
                kill(running.pid, signal)
                let outcome = running.wait(deadline: 20)
                let isOrderly = words == serve && signal == SIGTERM
                #expect(
                    outcome.signal == (isOrderly ? nil : signal) && outcome.exit == (isOrderly ? 0 : nil), "\(outcome)")
            }
        }
    }

    @Test("a shell's loop around a conversion stops at Ctrl-C")
    func loop() throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).rawFile("source", 32 << 20)
            let script =
                "for i in 1 2 3; do '\(Tools.qblk)' convert -r 512k -f raw -O raw source out$i; done; echo went on"
            var running = try Command(["bash", "-c", script], in: folder).spawn()
            defer { running.end() }
            let end = Date.now + 20
            while (try? fileSize("\(folder)/out1")) ?? 0 == 0, Date.now < end { usleep(10_000) }
            // As a terminal does it: to all of the group.
            kill(-running.pid, SIGINT)
            let outcome = running.wait(deadline: 20)
            #expect(outcome.signal == SIGINT && outcome.output.isEmpty, "\(outcome)")
            #expect(!FileManager.default.fileExists(atPath: "\(folder)/out2"))
        }
    }

    @Test("what was ignored at the start stays ignored", arguments: ["HUP", "INT"])
    func ignored(name: String) throws {
        let signal = name == "HUP" ? SIGHUP : SIGINT
        try withConversion(through: ["env", "--ignore-signal=\(name)"]) { running, _ in
            kill(running.pid, signal)
            usleep(500_000)
            #expect(running.isRunning)
            kill(running.pid, SIGTERM)
            #expect(running.wait(deadline: 20).signal == SIGTERM)
        }
    }

    @Test("serve under nohup goes on after SIGHUP and SIGINT")
    func ignoredByServe() throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("16M", as: "disk.qcow2")
            let words = ["env", "--ignore-signal=HUP", "--ignore-signal=INT", Tools.qblk]
            var running = try Command(words + ["serve", "disk.qcow2", "--socket-path", "s"], in: folder).spawn()
            defer { running.end() }
            try running.waitUntilIt(runs: "qblk")
            usleep(300_000)
            for signal in [SIGHUP, SIGINT] { kill(running.pid, signal) }
            usleep(300_000)
            #expect(running.isRunning)
            kill(running.pid, SIGTERM)
            let outcome = running.wait(deadline: 20)
            #expect(outcome.exit == 0, "\(outcome)")
        }
    }

    @Test("SIGUSR1 prints the progress once on standard error and ends nothing")
    func progress() throws {
        try withConversion { running, _ in
            kill(running.pid, SIGUSR1)
            usleep(4_500_000)
            #expect(running.isRunning)
            kill(running.pid, SIGTERM)
            let outcome = running.wait(deadline: 20)
            #expect(outcome.output.isEmpty && outcome.errorLines.count == 2, "\(outcome)")
            #expect(outcome.errorLines.first?.wholeMatch(of: #/    \(\d+\.\d\d\/100%\)/#) != nil, "\(outcome)")
        }
    }

    @Test("SIGUSR1 ends no verb", arguments: ["bench --seconds 2 disk.qcow2", "serve disk.qcow2 --socket-path s"])
    func harmless(line: String) throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("16M", as: "disk.qcow2")
            var running = try Command([Tools.qblk] + line.split(separator: " ").map(String.init), in: folder).spawn()
            defer { running.end() }
            try running.waitUntilIt(runs: "qblk")
            usleep(500_000)
            kill(running.pid, SIGUSR1)
            usleep(300_000)
            #expect(running.isRunning)
            kill(running.pid, SIGTERM)
            #expect(running.wait(deadline: 20).timedOut == false)
        }
    }

    @Test(
        "-p goes to standard output as qemu-img's does",
        arguments: [["convert", "-p", "a.qcow2", "out"], ["compare", "-p", "a.qcow2", "a.qcow2"]])
    func form(words: [String]) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("16M", as: "a.qcow2")
            try builder.io(["write -P 5 0 16M"], on: "a.qcow2")
            let ours = try qblk(words, in: folder)
            let theirs = try Command(["qemu-img"] + words, in: folder).run()
            for outcome in [ours, theirs] {
                #expect(outcome.exit == 0 && outcome.errors.isEmpty, "\(outcome)")
                // In Swift "\r\n" is one character: taken apart as bytes.
                let parts = outcome.output.utf8.split(separator: 13, omittingEmptySubsequences: false)
                    .map { String(decoding: $0, as: UTF8.self) }
                #expect(parts.count > 2)
                #expect(
                    parts.dropLast().allSatisfy { $0.wholeMatch(of: #/    \(\d+\.\d\d\/100%\)/#) != nil }, "\(outcome)")
                #expect(parts.first == "    (0.00/100%)" && parts.dropLast().last == "    (100.00/100%)", "\(outcome)")
            }
            let lines = { (outcome: Outcome) in
                outcome.output.utf8.split(separator: 13).last.map { String(decoding: $0, as: UTF8.self) }?
                    .split(separator: "\n").map(String.init) ?? []
            }
            #expect(lines(ours) == lines(theirs))
        }
    }
}
