// The form of every error: `qblk: IMAGE: what (where): what to do`, one line, and qemu-img's exit codes (1; compare: 2
// and up).

import ArgumentParser
import DiskTypes
import Glibc
import SystemPackage

/// An error with an exit code of its own, or one that is no `ImageError`.
struct Failure: Error {
    /// Without `qblk: `. Nil: everything is printed already.
    var line: String?
    /// Nil: the exit code of any error of the command.
    var code: Int32?

    init(_ line: String? = nil, code: Int32? = nil) {
        self.line = line
        self.code = code
    }

    /// The line of an error in an image. If the image is locked it names the process that holds the lock, if that can
    /// be found out.
    static func line(_ error: ImageError) -> String {
        var error = error
        if error.kind == .locked, let path = error.path.flatMap({ FilePath($0) }),
            let user = ImageUser.description(of: path)
        {
            error = ImageError(.locked, error.what, at: error.at, advice: user, path: path, number: error.number)
        }
        let line = error.path.map { "\($0): \(error)" } ?? "\(error)"
        return line.split(whereSeparator: \.isNewline).joined(separator: " ")
    }

    /// Prints what went wrong; returns the exit code.
    static func report(_ error: any Error, _ arguments: [String]) -> Int32 {
        switch error {
        case let failure as Failure:
            if let line = failure.line { warn(line) }
            return failure.code ?? usageCode(arguments)
        case let error as ImageError:
            warn(line(error))
            return usageCode(arguments)
        case is BrokenPipe:
            return usageCode(arguments)
        default:
            return reportParser(error, arguments)
        }
    }

    /// ArgumentParser's errors, among which are help and version.
    private static func reportParser(_ error: any Error, _ arguments: [String]) -> Int32 {
        let message = Qblk.fullMessage(for: error)
        if Qblk.exitCode(for: error) == .success {
            var out = Output()
            out.line(message)
            do { try out.flush() } catch { return report(error, arguments) }
            return 0
        }
        let said = Qblk.message(for: error).split(whereSeparator: \.isNewline).joined(separator: " ")
        let help = arguments.first.map { $0.hasPrefix("-") ? "qblk --help" : "qblk \($0) --help" } ?? "qblk --help"
        warn("\(said.hasSuffix(".") ? String(said.dropLast()) : said): see `\(help)`")
        return usageCode(arguments)
    }

    /// `compare` has 1 for "different".
    private static func usageCode(_ arguments: [String]) -> Int32 { arguments.first == "compare" ? 2 : 1 }

    /// Prints one line of failure on standard error.
    static func warn(_ line: String) { print("qblk: \(line)\n") }

    /// Writes to standard error; if that fails nothing else can be done.
    static func print(_ text: String) {
        var bytes = Array(ArgumentText.shown(text).utf8)[...]
        while !bytes.isEmpty {
            let count = unsafe bytes.withUnsafeBytes { unsafe write(STDERR_FILENO, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            bytes = bytes.dropFirst(count)
        }
    }
}

extension Qblk {
    /// The names of all commands.
    static var verbs: [String] {
        (configuration.subcommands + configuration.groupedSubcommands.flatMap(\.subcommands))
            .map { $0.configuration.commandName ?? "" }
    }
}
