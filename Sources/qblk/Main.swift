// Why this file exists: the program's start and its one way out. Whatever goes wrong leaves as one line on stderr and
// an exit code; nothing of Swift's own error printing reaches the user.

import ArgumentParser
import FuseExport
import Glibc
import HotPlug

@main
enum Main {
    static func main() {
        // A reader that goes away is an error of the write, not a death: a map must not die with the shell's pipe.
        signal(SIGPIPE, SIG_IGN)
        // A limit on file sizes is the error of the write that meets it.
        signal(SIGXFSZ, SIG_IGN)
        raiseFileLimit()
        if let code = LoopExport.runHiddenVerb(CommandLine.arguments) { exit(code) }
        if let code = HotPlug.runHiddenVerb(CommandLine.arguments) { exit(code) }
        let arguments = ResizeCommand.prepared(Array(CommandLine.arguments.dropFirst()))
        do {
            var command = try Qblk.parseAsRoot(arguments)
            try command.run()
        } catch {
            exit(Failure.report(error, arguments))
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
