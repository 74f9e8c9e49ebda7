// Every end-to-end test runs programs that may hang, die or eat the machine's memory. A command is run under a
// deadline, in its own process group, and its outcome says all that a test may want to claim about it. It must never
// leave a child behind.

import Foundation

/// A program and its arguments, and how to run it.
public struct Command: Sendable, CustomStringConvertible {
    public var arguments: [String]
    public var folder: String?
    public var deadline: Double
    public var environment: [String: String] = [:]
    /// Has the outcome tell how much memory it took. A child of ours cannot be asked: until its exec is done it runs on
    /// our own memory, and the kernel starts its ru_maxrss at our peak. So it is started by a small program, GNU time.
    public var measuresMemory = false

    /// `arguments[0]` is looked up in PATH when it has no slash.
    public init(_ arguments: [String], in folder: String? = nil, deadline: Double = 60) {
        self.arguments = arguments
        self.folder = folder
        self.deadline = deadline
    }

    public var description: String {
        let line = arguments.map { $0.contains(" ") ? "'\($0)'" : $0 }.joined(separator: " ")
        return folder.map { "(cd \($0) && \(line))" } ?? line
    }

    /// Runs it to its end (or its deadline, then it is killed) and tells what happened.
    public func run() throws -> Outcome {
        var running = try spawn()
        return running.wait(deadline: deadline)
    }

    /// Runs it and throws unless it exits 0: for the steps that prepare a test.
    @discardableResult
    public func succeed() throws -> Outcome {
        let outcome = try run()
        guard outcome.exit == 0 else { throw CommandFailure(outcome: outcome) }
        return outcome
    }
}

/// A preparing step that did not work.
public struct CommandFailure: Error, CustomStringConvertible {
    public let outcome: Outcome
    public var description: String { outcome.description }
}

/// What came of a command.
public struct Outcome: Sendable, CustomStringConvertible {
    public let command: String
    /// The exit code, or nil when a signal ended it.
    public let exit: Int32?
    public let signal: Int32?
    public let timedOut: Bool
    public let seconds: Double
    public let cpuSeconds: Double
    /// The most memory it held at once; nil when it was not measured (see `Command.measuresMemory`).
    public let peakBytes: Int?
    public let output: String
    public var errors: String

    /// The lines of standard error that say something.
    public var errorLines: [Substring] { errors.split(separator: "\n").filter { !$0.isEmpty } }

    public var description: String {
        let end = timedOut ? "killed at its deadline" : exit.map { "exit \($0)" } ?? "signal \(signal ?? 0)"
        let spent = String(format: "%.2f s", seconds) + (peakBytes.map { ", \($0 >> 20) MiB" } ?? "")
        return "\(command): \(end) (\(spent))\nstdout: \(output.prefix(2000))\nstderr: \(errors.prefix(2000))"
    }

    /// Standard output as JSON.
    public func json() throws -> JSONValue { try JSONValue(parsing: output) }
}
