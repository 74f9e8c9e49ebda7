// Listening at a path is more than bind: what lies there may be a dead server's socket, a living one's, or an
// ordinary file; and two servers may start at once.
import DiskTypes
import Glibc
public import SystemPackage

/// A socket that others connect to. Dropped, it takes its file away, unless another's is there by then.
public struct UnixListener: ~Copyable, Sendable {
    private let owned: OwnedFD
    /// The path it was made for; empty for an inherited one, whose file its maker removes.
    public let path: FilePath
    private let identity: FileIdentity?
    /// The descriptor, for poll and rings. Stays this value's.
    public var raw: Int32 { owned.raw }

    /// Takes over a listening socket that was inherited.
    public init(taking owned: consuming OwnedFD) {
        self.owned = owned
        path = ""
        identity = nil
    }

    init(_ path: FilePath, backlog: Int32) throws(ImageError) {
        let socket = try UnixSocket.newSocket(path)
        // Held while looking and binding: two servers that start at once would both find the same dead socket, and the
        // one that is faster would lose its new one to the other. Where a folder cannot be locked, that stays possible.
        let lock = OwnedFD(taking: path.parent.open(O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        while flock(lock.raw, LOCK_EX) != 0, errno == EINTR {}
        try Self.clear(path)
        var address = UnixSocket.address(path)
        let bound = unsafe withUnsafePointer(to: &address) { place in
            unsafe place.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(socket.raw, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard bound == 0, Glibc.listen(socket.raw, backlog) == 0 else {
            let error = errno
            if bound == 0 { path.unlink() }
            throw ImageError(.system, "cannot listen: \(errorText(error))", path: path, number: error)
        }
        identity = Filesystem.identity(of: path)
        self.path = path
        owned = socket
    }

    deinit {
        if let identity, Filesystem.identity(of: path) == identity { path.unlink() }
    }

    /// Removes the socket of a server that is gone. Anything else that is there is an error.
    private static func clear(_ path: FilePath) throws(ImageError) {
        guard let status = path.status(followingLinks: false) else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw ImageError(
                .system, "there is a file that is no socket", advice: "name another path, or remove it", path: path)
        }
        let probe = try UnixSocket.newSocket(path)
        // A server whose backlog is full lives, too: the probe must not wait for it.
        _ = fcntl(probe.raw, F_SETFL, O_NONBLOCK)
        do throws(Errno) {
            try UnixSocket.connectTo(probe.raw, path)
        } catch {
            if error == .connectionRefused {
                path.unlink()
                return
            }
            if error == .noSuchFileOrDirectory { return }
        }
        throw ImageError(
            .system, "another server listens there", advice: "stop it, or name another path", path: path)
    }

    /// The next who connects; nil when none does within `milliseconds` (-1: for ever).
    public borrowing func accept(milliseconds: Int32 = -1) throws(Errno) -> UnixSocket? {
        var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
        if try retrying({ unsafe poll(&entry, 1, milliseconds) }) == 0 { return nil }
        let listener = raw
        let fd: Int32
        do throws(Errno) {
            fd = try retrying { Glibc.accept(listener, nil, nil) }
        } catch {
            // Who knocked has gone again, or another process with the same listener was faster.
            if error == .connectionAbort || error == .resourceTemporarilyUnavailable { return nil }
            throw error
        }
        _ = fcntl(fd, F_SETFD, FD_CLOEXEC)
        return UnixSocket(taking: OwnedFD(taking: fd))
    }
}
