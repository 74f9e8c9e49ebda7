// Why this file exists: a verb that runs for minutes ends cleanly on SIGINT and SIGTERM: one line, a non-zero exit, no
// half-written message. The second signal kills, should the first not be heard.

import Glibc
import ImageOperations

enum Interrupts {
    /// Read by the handler, which can reach nothing but globals. Made before the handler is.
    private static let flag = CancelFlag()

    /// A flag that SIGINT and SIGTERM set from now on.
    static func watch() -> CancelFlag {
        let flag = flag
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in Interrupts.flag.set() }
        action.sa_flags = Int32(bitPattern: UInt32(SA_RESETHAND))
        for signal in [SIGINT, SIGTERM, SIGHUP] { sigaction(signal, &action, nil) }
        return flag
    }
}
