// Why this file exists: -p, as qemu-img prints it, but on standard error: standard output is for results.

import Glibc

/// One line that says how far it is, rewritten in place.
final class ProgressLine {
    private let isOn: Bool
    private var said = -1

    init(_ isOn: Bool) { self.isOn = isOn }

    func show(_ done: UInt64, of total: UInt64) {
        guard isOn else { return }
        let hundredths = total == 0 ? 10_000 : Int(Double(min(done, total)) / Double(total) * 10_000)
        guard hundredths > said else { return }
        said = hundredths
        let fraction = hundredths % 100
        say("    (\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)/100%)\r")
    }

    /// Leaves the line. Call it before anything else is said; what is shown after that is a new line.
    func end() {
        guard isOn, said >= 0 else { return }
        said = -1
        say("\n")
    }

    private func say(_ text: String) { _ = text.withCString { write(STDERR_FILENO, $0, strlen($0)) } }
}
