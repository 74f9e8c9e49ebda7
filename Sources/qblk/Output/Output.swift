// Standard output, buffered, with its errors. A full disk or a closed pipe behind it is an error, which `print` would
// ignore; and a list of a million extents must not take a million system calls.

import DiskTypes
import Glibc

/// The reader of standard output has gone: nothing more can be printed.
struct BrokenPipe: Error {}

/// Buffered standard output.
struct Output {
    private var buffer: [UInt8] = []
    private static let full = 64 << 10

    mutating func text(_ text: String) { buffer += text.utf8 }
    mutating func line(_ text: String) { self.text(text + "\n") }

    /// Writes the buffer if it is large.
    mutating func drain() throws { if buffer.count >= Self.full { try flush() } }

    /// Writes the whole buffer.
    mutating func flush() throws {
        var rest = buffer[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if count < 0 {
                if errno == EINTR { continue }
                if errno == EPIPE { throw BrokenPipe() }
                throw Failure(unsafe "standard output cannot be written: \(String(cString: strerror(errno)))")
            }
            rest = rest.dropFirst(count)
        }
        buffer.removeAll(keepingCapacity: true)
    }

    /// Writes one text, without a buffer to keep.
    static func write(_ text: String) throws {
        var out = Output()
        out.text(text)
        try out.flush()
    }
}
