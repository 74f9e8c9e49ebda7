// How far a command is: -p, in qemu-img's form and on its stream, and one line when SIGUSR1 asks.

import Glibc
import Synchronization

/// One line that says how far a command is, written over itself. SIGUSR1 prints it once, also without -p.
final class ProgressLine {
    /// Set by the handler of SIGUSR1, which can use only globals.
    private static let isAsked = Atomic<Bool>(false)

    private let isOn: Bool
    private let stream: Int32
    /// Hundredths of a percent that the line shows; -1: no line was printed yet.
    private var shown = -1

    /// `isOn`: -p was given. `stream`: standard output for qemu-img's commands; standard error for others, and for
    /// those that print JSON.
    init(_ isOn: Bool, stream: Int32 = STDOUT_FILENO) {
        self.isOn = isOn
        self.stream = stream
        Self.isAsked.store(false, ordering: .relaxed)
        var action = sigaction()
        unsafe action.__sigaction_handler.sa_handler = { _ in ProgressLine.isAsked.store(true, ordering: .relaxed) }
        action.sa_flags = Int32(SA_RESTART)
        unsafe sigaction(SIGUSR1, &action, nil)
    }

    /// Shows the first and the last call, and those that moved the line by more than one percent.
    func show(_ done: UInt64, of total: UInt64) {
        let hundredths = total == 0 ? 10_000 : Int(Double(min(done, total)) / Double(total) * 10_000)
        let isAsked = Self.isAsked.exchange(false, ordering: .relaxed)
        guard isOn else {
            if isAsked { say(hundredths, end: "\n", on: STDERR_FILENO) }
            return
        }
        guard isAsked || hundredths > shown + 100 || shown < 0 || (hundredths == 10_000 && shown < hundredths) else {
            return
        }
        // As qemu-img's, the line begins at 0, however far the first step went.
        if shown < 0, hundredths > 0 { say(0, end: "\r", on: stream) }
        shown = max(shown, hundredths)
        say(hundredths, end: "\r", on: stream)
    }

    /// Ends the line. To be called before anything else is printed; what is shown after that is a new line.
    func end() {
        guard isOn, shown >= 0 else { return }
        shown = -1
        say("\n", on: stream)
    }

    private func say(_ hundredths: Int, end: String, on stream: Int32) {
        let fraction = hundredths % 100
        say("    (\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)/100%)\(end)", on: stream)
    }

    /// A line that cannot be printed is no error of the command.
    private func say(_ text: String, on stream: Int32) {
        _ = unsafe text.withCString { unsafe write(stream, $0, strlen($0)) }
    }
}
