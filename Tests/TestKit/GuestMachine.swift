// What a disk is worth shows in a guest: a kernel that partitions it, and programs that find their bytes again. The
// machine is tools/guest/run's; a test runs scripts in it and talks to QEMU's monitor meanwhile.

import Foundation
import Synchronization

/// A running QEMU with Debian's kernel in it. Ends with its last reference, if not before.
public final class GuestMachine: Sendable {
    private let command: Mutex<RunningCommand?>
    private let shell: UnixSocket
    public let qmpPath: String

    static let run = URL(filePath: #filePath).deletingLastPathComponent()
        .appending(path: "../../tools/guest/run").standardizedFileURL.path

    /// Why no such machine can be had; nil where it can.
    public static let missing: String? = {
        guard let outcome = try? Command([run, "--kernel", "tcg", "--available"]).run() else { return "no shell" }
        return outcome.exit == 0 ? nil : outcome.output.split(separator: "\n").first.map(String.init) ?? "\(outcome)"
    }()

    /// Boots. `disks` are tools/guest/run's `--vhost-user` words; `folder` is shared with the guest.
    public init(
        disks: [String] = [], cpus: Int = 2, options: [String] = [], folder: String, limit: Int = 800
    ) throws {
        qmpPath = "\(folder)/qmp.sock"
        let shellPath = "\(folder)/shell.sock"
        let words =
            [
                GuestMachine.run, "--kernel", "tcg", "--scratch", "0", "--timeout", "\(limit)", "--cpus", "\(cpus)",
                "--share", folder, "--cwd", folder, "--qmp", qmpPath, "--shell", shellPath,
            ] + disks.flatMap { ["--vhost-user", $0] } + options
        // An emulator that ends before its guest has said a word (once in dozens of times, on a busy machine, it aborts)
        // is started again, and what it said is shown: a guest that has been up is never replaced.
        var (running, shell) = try GuestMachine.start(words, shellPath)
        if let trouble = GuestMachine.firstWord(shell) {
            let end = now() + 5
            while running.isRunning, now() < end { usleep(50_000) }
            guard !running.isRunning else {
                throw TestFailure("the guest does not start (\(trouble)): \(running.end())")
            }
            print("a guest did not start, and is started again: \(trouble): \(running.end())")
            (running, shell) = try GuestMachine.start(words, shellPath)
            if let trouble = GuestMachine.firstWord(shell) {
                throw TestFailure("the guest does not start (\(trouble)): \(running.end())")
            }
        }
        self.shell = shell
        command = Mutex(running)
    }

    private static func start(_ words: [String], _ shell: String) throws -> (RunningCommand, UnixSocket) {
        unlink(shell)
        var running = try Command(words).spawn()
        do { return (running, try UnixSocket(shell)) } catch {
            throw TestFailure("\(error): \(running.end())")
        }
    }

    /// Nil when the guest answers; else what came instead.
    private static func firstWord(_ shell: UnixSocket) -> String? {
        do {
            try shell.send(Data("true".utf8).base64EncodedString() + "\n")
            let answer = try shell.line(deadline: 300)
            return answer == "0 0" ? nil : answer
        } catch { return "\(error)" }
    }

    deinit { end() }

    /// Ends the machine at once; what it said.
    @discardableResult public func end() -> String {
        command.withLock { running in
            guard var process = running else { return "" }
            running = nil
            kill(process.pid, SIGTERM)
            return "\(process.wait(deadline: process.age + 20))"
        }
    }

    /// Shuts the machine down in order: file systems that are mounted stay dirty, its own status tells.
    public func shutDown() throws {
        try shell.send(Data("exit-guest".utf8).base64EncodedString() + "\n")
        let outcome = command.withLock { running -> Outcome? in
            var process = running
            running = nil
            return process?.wait(deadline: 180)
        }
        if let outcome, outcome.exit != 0 { throw CommandFailure(outcome: outcome) }
    }

    public struct Answer: Sendable, CustomStringConvertible {
        public let script: String
        public let status: Int
        public let output: String
        public var description: String { "in the guest: \(script)\nexit \(status)\n\(output.suffix(2000))" }
        public var word: String { output.trimmingCharacters(in: .whitespacesAndNewlines) }
    }

    /// Runs a bash script in the guest, to its end.
    public func run(_ script: String, deadline: Double = 60) throws -> Answer {
        try shell.send(Data(script.utf8).base64EncodedString() + "\n")
        let parts = try shell.line(deadline: deadline).split(separator: " ").compactMap { Int($0) }
        guard parts.count == 2 else { throw TestFailure("the guest's shell talks nonsense") }
        return Answer(script: script, status: parts[0], output: try shell.text(of: parts[1], deadline: deadline))
    }

    /// Runs a script that has to exit 0; what it printed, without blanks around it.
    @discardableResult public func succeed(_ script: String, deadline: Double = 60) throws -> String {
        let answer = try run("set -e\n\(script)", deadline: deadline)
        guard answer.status == 0 else { throw TestFailure("\(answer)") }
        return answer.word
    }

    /// Runs a script again and again until it exits 0.
    public func wait(until script: String, deadline: Double = 20) throws {
        let end = now() + deadline
        while try run(script).status != 0 {
            guard now() < end else {
                throw TestFailure("not within \(deadline) s: \(try run(script))")
            }
            usleep(100_000)
        }
    }

    /// Runs a script again and again until it exits 0, as long as what `sign` prints changes: slow is no failure, and
    /// what stands still for a minute is stuck.
    public func wait(until script: String, whileMoving sign: String, stuckAfter seconds: Double = 60) throws {
        var last = ""
        var moved = now()
        while try run(script).status != 0 {
            let seen = try run(sign).output
            if seen != last { (last, moved) = (seen, now()) }
            guard now() < moved + seconds else {
                throw TestFailure("nothing moves for \(seconds) s: \(try run(script)) \(seen)")
            }
            usleep(100_000)
        }
    }

    /// A connection to QEMU's monitor. One at a time: others wait for its end.
    public func monitor() throws -> TestMonitor { try TestMonitor(qmpPath) }
}
