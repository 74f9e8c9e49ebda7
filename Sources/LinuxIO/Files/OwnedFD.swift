// A descriptor has one owner, who closes it exactly once. The compiler checks it here, so that no path through an
// error leaks one or closes a foreign one.
import Glibc
public import SystemPackage

/// A file descriptor and the duty to close it.
public struct OwnedFD: ~Copyable, Sendable {
    /// The descriptor, for calls. Stays ours: never close it or keep it beyond this value's life.
    public let raw: Int32

    /// Takes over a descriptor that no other code will close.
    public init(taking raw: Int32) { self.raw = raw }

    deinit { _ = Glibc.close(raw) }

    /// Closes and says whether the system reported a late error (a full disk on some file systems).
    public consuming func close() throws(Errno) {
        let fd = raw
        discard self
        // Never retried: on Linux the descriptor is gone even after EINTR.
        if Glibc.close(fd) != 0, errno != EINTR { throw .last }
    }

    /// Gives the descriptor and the duty away.
    public consuming func release() -> Int32 {
        let fd = raw
        discard self
        return fd
    }

    /// A second descriptor of the same open file description (they share offset, status flags and OFD locks).
    public borrowing func duplicate() throws(Errno) -> OwnedFD {
        OwnedFD(taking: try check(fcntl(raw, F_DUPFD_CLOEXEC, 3)))
    }
}
