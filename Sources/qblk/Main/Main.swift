// The program's start and its one way out. Whatever goes wrong leaves as one line on stderr and an exit code; nothing
// of Swift's own error printing reaches the user.

import ArgumentParser
import FuseExport
import Glibc
import HotPlug

@main
enum Main {
    static func main() {
        openStandardDescriptors()
        // A reader that goes away is an error of the write, not a death: a map must not die with the shell's pipe.
        signal(SIGPIPE, SIG_IGN)
        // A limit on file sizes is the error of the write that meets it.
        signal(SIGXFSZ, SIG_IGN)
        raiseFileLimit()
        let words = CommandLine.words
        if let code = LoopExport.runHiddenVerb(words) { exit(code) }
        if let code = HotPlug.runHiddenVerb(words) { exit(code) }
        // It asks how far a verb is; one that cannot tell goes on.
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

    /// A program may be started with some of these closed. The next file that it opens, an image, would get such a number,
    /// and messages would be written into it. /dev/null stands in, opened so that using it is the same error as before.
    private static func openStandardDescriptors() {
        for number in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] where fcntl(number, F_GETFD) < 0 {
            guard open("/dev/null", number == STDIN_FILENO ? O_WRONLY : O_RDONLY) == number else { exit(1) }
        }
    }

    /// An argument without any text is what an unset variable of a script leaves. No option means anything by it, and some
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

    /// A chain of 256 images with data files is more descriptors than the usual soft limit.
    private static func raiseFileLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}
