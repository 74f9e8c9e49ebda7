// A daemon has no terminal. What upper targets have to say goes to the system's log through these two calls, without
// their needing C.
import CQblk

/// The system's log.
public enum SystemLog {
    /// Syslog's severities.
    public enum Level: Int32, Sendable { case error = 3, warning, notice, info, debug }

    /// Names the program in the log; facility "daemon".
    public static func open(name: String) { unsafe qb_openlog(name, 3 << 3) }

    /// Writes one line. Nothing is reported where there is no log.
    public static func write(_ level: Level, _ text: String) { unsafe qb_syslog(level.rawValue, text) }
}
