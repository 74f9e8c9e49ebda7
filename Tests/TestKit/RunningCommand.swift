// The one place that talks to posix_spawn and wait4. Output goes to files, never to pipes, so that a child that
// prints a lot, or leaves a server behind that holds its stderr, cannot block the test.

public import Foundation

/// A child that has been started. Its holder must wait for it or end it.
public struct RunningCommand: Sendable {
    public let pid: pid_t
    let line: String
    let outputFile: String
    let errorFile: String
    /// Where `time` says how much memory the command took; nil when it is not measured.
    let measureFile: String?
    let started: Double

    /// Waits until the child ends; kills its whole group at the deadline.
    public mutating func wait(deadline: Double) -> Outcome {
        var status: Int32 = 0
        var usage = rusage()
        var timedOut = false
        var stood = ""
        var pause: useconds_t = 500
        while wait4(pid, &status, WNOHANG, &usage) == 0 {
            if now() - started > deadline {
                if !timedOut { stood = whereItStands() }
                timedOut = true
                kill(-pid, SIGKILL)
            }
            usleep(pause)
            pause = min(pause * 2, 5000)
        }
        let elapsed = now() - started
        defer {
            unlink(outputFile)
            unlink(errorFile)
            if let measureFile { unlink(measureFile) }
        }
        let measured = measureFile.map { Measured(text($0)) }
        let signal = measured?.signal ?? (status & 0x7f == 0 ? nil : status & 0x7f)
        return Outcome(
            command: line, exit: signal == nil ? (status >> 8) & 0xff : nil, signal: signal, timedOut: timedOut,
            seconds: elapsed, cpuSeconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            peakBytes: measured?.peakBytes, output: text(outputFile), errors: text(errorFile) + stood)
    }

    /// What each thread of the child waits for, as far as the kernel says: the first question about one that hangs.
    private func whereItStands() -> String {
        let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")) ?? []
        return tasks.sorted().map { task in
            let place = "/proc/\(pid)/task/\(task)"
            let state = text("\(place)/stat").split(separator: ")").last?.prefix(2) ?? ""
            let stack = text("\(place)/stack").split(separator: "\n").map { $0.drop { $0 != " " }.dropFirst() }
            return "\n\(text("\(place)/comm").dropLast()):\(state) in \(text("\(place)/wchan")): "
                + stack.joined(separator: " < ")
        }.joined()
    }

    /// Waits until the child has become `program`: a shell that opens files and then execs has opened them by then.
    public func waitUntilIt(runs program: String, deadline: Double = 20) throws {
        let end = now() + deadline
        while text("/proc/\(pid)/comm") != "\(program)\n" {
            guard now() < end else { throw POSIXError(.ETIMEDOUT) }
            usleep(2000)
        }
    }

    /// Ends the child and its group at once.
    @discardableResult public mutating func end() -> Outcome {
        kill(-pid, SIGKILL)
        return wait(deadline: age + 5)
    }

    /// Whether the child itself has not ended yet. Leaves its end to be waited for.
    public var isRunning: Bool {
        var info = siginfo_t()
        return waitid(P_PID, id_t(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_signo == 0
    }

    /// Seconds since it was started; deadlines count from there.
    public var age: Double { now() - started }

    /// What the child has said on standard output so far.
    public func outputSoFar() -> String { text(outputFile) }
}

/// What GNU time wrote: a line about a signal if one ended the command, then the peak in KiB.
private struct Measured {
    var signal: Int32?
    var peakBytes: Int?

    init(_ report: String) {
        for line in report.split(separator: "\n") {
            if let kibibytes = Int(line) { peakBytes = kibibytes * 1024 }
            if line.hasPrefix("Command terminated by signal") {
                signal = line.split(separator: " ").last.flatMap { Int32($0) }
            }
        }
    }
}

extension Command {
    /// Starts it in a process group of its own.
    public func spawn() throws -> RunningCommand {
        let outputFile = try Scratch.newFile("out")
        let errorFile = try Scratch.newFile("err")
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, outputFile, O_WRONLY | O_TRUNC, 0)
        posix_spawn_file_actions_addopen(&actions, 2, errorFile, O_WRONLY | O_TRUNC, 0)

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK))
        posix_spawnattr_setpgroup(&attributes, 0)
        var defaults = sigset_t()
        sigfillset(&defaults)
        posix_spawnattr_setsigdefault(&attributes, &defaults)
        // The threads that tests run on block signals; a child that inherits that cannot be asked to end.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)

        var child: pid_t = 0
        let started = now()
        let variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }.map { "\($0)=\($1)" }
        // env steps into the folder: posix_spawn's own way is a GNU extension that Swift does not see.
        var words = folder.map { ["env", "-C", $0] } ?? []
        let measureFile = measuresMemory ? try Scratch.newFile("time") : nil
        if let measureFile { words += ["time", "-o", measureFile, "-f", "%M"] }
        words += arguments
        let error = withCStrings(words) { argv in
            withCStrings(variables) { envp in
                posix_spawnp(&child, words[0], &actions, &attributes, argv, envp)
            }
        }
        guard error == 0 else { throw POSIXError(POSIXErrorCode(rawValue: error) ?? .EIO) }
        return RunningCommand(
            pid: child, line: description, outputFile: outputFile, errorFile: errorFile,
            measureFile: measureFile, started: started)
    }
}

private func withCStrings<R>(
    _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> R
) -> R {
    var pointers = strings.map { strdup($0) }
    pointers.append(nil)
    defer { for pointer in pointers { free(pointer) } }
    return pointers.withUnsafeMutableBufferPointer { buffer in
        // Never empty: the terminating nil is always there.
        body(buffer.baseAddress.unsafelyUnwrapped)
    }
}

func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

private func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }

private func text(_ path: String) -> String {
    String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
}
