// Standard output carries results that scripts parse. A full disk or a closed pipe behind it is an error, which
// `print` would swallow; and a map of a million extents must not be a million system calls.

import DiskTypes
import Glibc

/// The reader of our output has gone: there is nothing left to say.
struct BrokenPipe: Error {}

/// Buffered standard output.
struct Output {
    private var buffer: [UInt8] = []
    private static let full = 64 << 10

    mutating func text(_ text: String) { buffer += text.utf8 }
    mutating func line(_ text: String) { self.text(text + "\n") }

    /// Writes what has gathered if it is much.
    mutating func drain() throws { if buffer.count >= Self.full { try flush() } }

    /// Writes everything.
    mutating func flush() throws {
        var rest = buffer[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if count < 0 {
                if errno == EINTR { continue }
                if errno == EPIPE { throw BrokenPipe() }
                throw Failure("standard output cannot be written: \(String(cString: strerror(errno)))")
            }
            rest = rest.dropFirst(count)
        }
        buffer.removeAll(keepingCapacity: true)
    }

    /// Writes one text and nothing else.
    static func write(_ text: String) throws {
        var out = Output()
        out.text(text)
        try out.flush()
    }
}
