// Lines on standard error that are no failures. They do not begin with `qblk:`, so that scripts and people can tell.

import DiskTypes
import Glibc

enum Notice {
    /// Prints one line on standard error that does not change the exit code.
    @Sendable static func say(_ line: String) { Failure.print("qblk note: \(line)\n") }
}
