// The program's start and its only end. Every error becomes one line on stderr and an exit code; Swift's own error
// messages never reach the user.

import ArgumentParser
import FuseExport
import Glibc
import HotPlug

@main
enum Main {
    static func main() {
        openStandardDescriptors()
        // When the reader of a pipe goes away, the write fails; a map must not end with the shell's pipe.
        signal(SIGPIPE, SIG_IGN)
        // At a limit on file sizes, too, the write fails.
        signal(SIGXFSZ, SIG_IGN)
        raiseFileLimit()
        let words = CommandLine.words
        if let code = LoopExport.runHiddenVerb(words) { exit(code) }
        if let code = HotPlug.runHiddenVerb(words) { exit(code) }
        // SIGUSR1 asks how far a command is; one that cannot tell goes on.
        signal(SIGUSR1, SIG_IGN)
        let arguments = ShortOptions.separated(ResizeCommand.prepared(Array(words.dropFirst())))
        var code: Int32 = 0
        do {
            try refuseEmpty(arguments)
            try VerbName.check(arguments)
            var command = try Qblk.parseAsRoot(arguments)
            try command.run()
        } catch {
            code = Failure.report(error, arguments)
        }
        Interrupts.endBySignal()
        exit(code)
    }

    /// Opens /dev/null for each of the standard descriptors that is closed: else the next file that the program opens,
    /// an image, would get its number, and messages would be written to it. /dev/null is opened so that using it is the
    /// same error as before.
    private static func openStandardDescriptors() {
        for number in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] where fcntl(number, F_GETFD) < 0 {
            guard unsafe open("/dev/null", number == STDIN_FILENO ? O_WRONLY : O_RDONLY) == number else { exit(1) }
        }
    }

    /// Refuses an empty argument, which the unset variable of a script leaves. No option means anything by it, and some
    /// would take it for "none": a disk without its backing file, the active state instead of a snapshot.
    private static func refuseEmpty(_ arguments: [String]) throws {
        for (place, argument) in arguments.enumerated() {
            if argument.isEmpty {
                let before = place > 0 ? " after '\(arguments[place - 1])'" : ""
                throw ValidationError("an argument is empty\(before)")
            }
            if argument.hasPrefix("--"), argument.hasSuffix("="), argument.count > 3 {
                throw ValidationError("'\(argument)' is given an empty value")
            }
        }
    }

    /// Raises the soft limit of descriptors: a chain of 256 images with data files needs more than is usual.
    private static func raiseFileLimit() {
        var limit = rlimit()
        guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}
