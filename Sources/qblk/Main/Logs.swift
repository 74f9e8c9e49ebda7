// A map in the foreground logs to the terminal; how much is the user's choice. In the background the doors log to the
// system's log by themselves.

import Logging

enum Logs {
    /// Warnings and errors; with `verbose` also what happens when all is well. To be called once.
    static func toStandardError(verbose: Bool) {
        LoggingSystem.bootstrap { label in
            var handler = StreamLogHandler.standardError(label: label)
            handler.logLevel = verbose ? .info : .warning
            return handler
        }
    }
}
