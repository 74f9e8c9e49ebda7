// A pipe by which a process tells the one that started it how its start went: by a line, or, when it dies before that,
// by the pipe's end.
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

/// The pipe for one report, from a process to the one that started it.
struct ReportPipe: ~Copyable {
    let reading: OwnedFD
    let writing: OwnedFD

    init() throws(ImageError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw ImageError(.system, "cannot make a pipe: \(errorText(errno))") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        reading = OwnedFD(taking: ends[0])
        writing = OwnedFD(taking: ends[1])
    }

    /// Closes the writing end, so that the child's death ends the pipe.
    consuming func keepReading() -> OwnedFD { reading }

    /// Sends a report; false when no process reads it, which is no error.
    @discardableResult static func send(_ report: LoopReport, to fd: Int32) -> Bool {
        let line: String
        do throws(ImageError) { line = try LoopWire.encode(report) + "\n" } catch { return false }
        return Glibc.write(fd, line, line.utf8.count) == line.utf8.count
    }

    /// Reads to the end of the line or of the pipe; nil when the process died without a report.
    static func receive(_ fd: Int32) throws(ImageError) -> LoopReport? {
        var text: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 4096)
        while text.last != UInt8(ascii: "\n"), text.count < 1 << 20 {
            let count = Glibc.read(fd, &piece, piece.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { break }
            text += piece[..<count]
        }
        guard !text.isEmpty else { return nil }
        return try LoopWire.decode(String(decoding: text, as: UTF8.self))
    }
}
