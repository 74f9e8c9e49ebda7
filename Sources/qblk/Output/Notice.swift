// Not everything said on standard error is a failure. What is not begins with other words than `qblk:`, so that
// scripts and people can tell.

import DiskTypes
import Glibc

enum Notice {
    /// One line on standard error that does not change the exit code.
    @Sendable static func say(_ line: String) { Failure.print("qblk note: \(line)\n") }
}
