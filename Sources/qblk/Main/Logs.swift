// Where commands in the foreground log: to the terminal, as much as the user chose. In the background, supervisors and
// servers log to the system's log by themselves.

import Logging

enum Logs {
    /// Logs warnings and errors; with `verbose` also regular events. To be called once.
    static func toStandardError(verbose: Bool) {
        LoggingSystem.bootstrap { label in
            var handler = StreamLogHandler.standardError(label: label)
            handler.logLevel = verbose ? .info : .warning
            return handler
        }
    }
}
