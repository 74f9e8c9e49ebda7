// A process that starts another in the background must hear how that went, even if the other dies before it can say: a
// pipe tells both, by a line or by its end.
import Glibc
package import SystemPackage

/// A pipe for one line, from a process to the one that started it. Both ends are closed by exec unless they are inherited.
package struct StatusPipe: ~Copyable {
    package let reading: OwnedFD
    package let writing: OwnedFD

    /// Throws what pipe(2) failed of.
    package init() throws(Errno) {
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { throw .last }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        reading = OwnedFD(taking: ends[0])
        writing = OwnedFD(taking: ends[1])
    }

    /// Gives up the writing end, so that the child's death ends the pipe.
    package consuming func keepReading() -> OwnedFD { reading }

    /// Sends `line`, which ends with a line's end, in one call. False: no process reads it any more.
    @discardableResult package static func send(_ line: String, to fd: Int32) -> Bool {
        unsafe Glibc.write(fd, line, line.utf8.count) == line.utf8.count
    }

    /// Waits for a line, or for the end of the pipe. Nil when the writer ended without a byte; 1 MiB at most is read.
    package static func receive(_ fd: Int32) -> String? {
        var text: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 4096)
        while text.last != UInt8(ascii: "\n"), text.count < 1 << 20 {
            let count = unsafe Glibc.read(fd, &piece, piece.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { break }
            text += piece[..<count]
        }
        return text.isEmpty ? nil : String(decoding: text, as: UTF8.self)
    }
}
