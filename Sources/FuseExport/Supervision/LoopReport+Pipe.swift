// How the processes of a map tell each other that they are ready, or why they are not: a report, as one line of JSON.
import DiskTypes
import LinuxIO
import SystemPackage

extension LoopReport {
    /// A pipe for one report.
    static func pipe() throws(ImageError) -> StatusPipe {
        do throws(Errno) { return try StatusPipe() } catch {
            throw ImageError(.system, "cannot make a pipe: \(errorText(error.rawValue))")
        }
    }

    /// Sends the report; without a reader it returns false and is no error.
    @discardableResult func send(to fd: Int32) -> Bool {
        let line: String
        do throws(ImageError) { line = try LoopWire.encode(self) + "\n" } catch { return false }
        return StatusPipe.send(line, to: fd)
    }

    /// Waits for a report; nil when the process died without one.
    static func receive(_ fd: Int32) throws(ImageError) -> LoopReport? {
        guard let line = StatusPipe.receive(fd) else { return nil }
        return try LoopWire.decode(line)
    }
}
