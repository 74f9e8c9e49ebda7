// Sends log messages to syslog: processes in the background have no terminal to write to.
import LinuxIO
public import Logging

/// A log handler that writes to syslog, and so to the journal.
public struct SyslogHandler: LogHandler {
    /// What every message of this logger carries; written behind the message as key=value.
    public var metadata: Logger.Metadata = [:]
    /// Messages below this level are dropped.
    public var logLevel: Logger.Level = .info

    /// `program` names the process in the log.
    public init(program: String) { SystemLog.open(name: program) }

    /// A value of `metadata`.
    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    /// Writes one message, with its metadata in the order of the keys.
    public func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { _, newer in newer }
        let extra = all.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        SystemLog.write(Self.severity(event.level), "\(event.message)\(extra)")
    }

    private static func severity(_ level: Logger.Level) -> SystemLog.Level {
        switch level {
        case .trace, .debug: .debug
        case .info: .info
        case .notice: .notice
        case .warning: .warning
        case .error, .critical: .error
        }
    }
}
