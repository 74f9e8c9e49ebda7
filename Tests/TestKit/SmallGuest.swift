// Some things can be tried only on a kernel of one's own: a disk that fails, by device-mapper's error target. The
// quick guest is enough for that.

import Foundation

public enum SmallGuest {
    /// Why there is none; nil where there is.
    public static let missing: String? = {
        guard let outcome = try? Command([GuestMachine.run, "--kernel", "uml", "--available"]).run() else {
            return "no shell"
        }
        return outcome.exit == 0 ? nil : outcome.output.split(separator: "\n").first.map(String.init) ?? "\(outcome)"
    }()

    /// Runs a shell script as root in /scratch, with `qblk` as the program under test; what came of it.
    public static func run(_ script: String, limit: Int = 120) throws -> Outcome {
        let words =
            [
                GuestMachine.run, "--kernel", "uml", "--timeout", "\(limit)", "--env", "DM_DISABLE_UDEV=1", "--env",
                "QBLK_RUN_DIR=/run/qblk-test", "--cwd", "/scratch", "--", "sh", "-c",
                "mkdir -p /run/qblk-test; qblk() { timeout 60 '\(Tools.qblk)' \"$@\"; }; \(script)",
            ]
        return try Command(words, deadline: Double(limit) + 60).run()
    }
}
