// Both ends of vhost-user meet at a path. A server that was killed leaves its socket there, and must find its way
// back to it without ever taking the place of one that lives.
public import DiskTypes
import Glibc
public import SystemPackage

/// A connected stream socket of this machine.
public struct UnixSocket: ~Copyable, Sendable {
    private let owned: OwnedFD
    /// The descriptor, for calls. Stays this value's.
    public var raw: Int32 { owned.raw }

    /// Takes over a connected socket: inherited, or received.
    public init(taking owned: consuming OwnedFD) { self.owned = owned }

    /// Connects to the listener at `path`.
    public static func connect(_ path: FilePath) throws(ImageError) -> UnixSocket {
        let socket = try newSocket(path)
        do throws(Errno) {
            try connectTo(socket.raw, path)
        } catch {
            let advice = error == .connectionRefused ? "its server is gone; start it" : nil
            throw ImageError(
                .system, "cannot connect: \(errorText(error.rawValue))", advice: advice, path: path,
                number: error.rawValue)
        }
        return UnixSocket(taking: socket)
    }

    /// Listens at `path`. A socket without a listener is replaced; one with a listener is an error.
    public static func listen(_ path: FilePath, backlog: Int32 = 8) throws(ImageError) -> UnixListener {
        try UnixListener(path, backlog: backlog)
    }

    /// Two sockets connected to each other.
    public struct Pair: ~Copyable, Sendable {
        /// The end for this process.
        public let near: UnixSocket
        /// The end to hand away. Both ends are equal.
        public let far: UnixSocket

        /// Throws what socketpair(2) failed of.
        public init() throws(Errno) {
            var both: [Int32] = [-1, -1]
            try unsafe check(socketpair(AF_UNIX, streamType, 0, &both))
            near = UnixSocket(taking: OwnedFD(taking: both[0]))
            far = UnixSocket(taking: OwnedFD(taking: both[1]))
        }
    }

    /// Whether bytes (or the end) can be read within `milliseconds` (-1: for ever).
    public borrowing func waitReadable(milliseconds: Int32) throws(Errno) -> Bool {
        var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
        return try retrying { unsafe poll(&entry, 1, milliseconds) } > 0
    }

    /// No more bytes in either direction; the other side sees the end even if other processes hold the descriptor.
    public borrowing func shutDown() { _ = shutdown(raw, Int32(SHUT_RDWR)) }

    /// The process on the other side: the one that called connect or listen.
    public borrowing func peer() throws(Errno) -> (pid: Int32, user: UInt32) {
        // struct ucred: pid, uid, gid.
        var words: [UInt32] = [0, 0, 0]
        var length = socklen_t(12)
        try unsafe check(getsockopt(raw, SOL_SOCKET, SO_PEERCRED, &words, &length))
        return (Int32(bitPattern: words[0]), words[1])
    }

    // MARK: shared with the listener

    static let streamType = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    /// Bytes of a path, without the terminator.
    static let longestPath = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

    static func newSocket(_ path: FilePath) throws(ImageError) -> OwnedFD {
        guard !path.isEmpty, path.length <= longestPath else {
            throw ImageError(
                .system, "a socket's path has 1 to \(longestPath) bytes", advice: "use a shorter or a relative path",
                path: path)
        }
        let raw = socket(AF_UNIX, streamType, 0)
        guard raw >= 0 else {
            throw ImageError(.system, "cannot make a socket: \(errorText(errno))", path: path, number: errno)
        }
        return OwnedFD(taking: raw)
    }

    static func connectTo(_ socket: Int32, _ path: FilePath) throws(Errno) {
        var address = address(path)
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        try retrying {
            unsafe withUnsafePointer(to: &address) { place in
                unsafe place.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe Glibc.connect(socket, $0, size)
                }
            }
        }
    }

    /// The path must be no longer than `longestPath`.
    static func address(_ path: FilePath) -> sockaddr_un {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) {
            unsafe $0.copyBytes(from: path.bytes.prefix(longestPath))
        }
        return address
    }
}
