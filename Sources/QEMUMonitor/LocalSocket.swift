// QEMU's monitor and a disk's server are Unix sockets whose other end may hang, be busy or lie. Nothing here waits
// without end, and nothing a peer sends makes the buffer grow without bound.
public import DiskTypes
import Glibc
import LinuxIO
public import SystemPackage

/// A connection to a Unix socket.
public final class LocalSocket {
    let fd: OwnedFD
    private var buffer: [UInt8] = []
    /// Where in `buffer` no line's end has been looked for yet.
    private var searched = 0
    /// The longest line: QEMU's longest answers are some 100 KiB.
    static let longestLine = 16 << 20

    /// Why a connection did not come about, as far as callers act on it.
    public enum Refusal: Error, Equatable {
        /// No process listens: the socket is not there, or its maker has gone.
        case noListener
        /// A process listens and does not accept the connection.
        case busy
        case other(ImageError)
    }

    /// Connects, without waiting. `.other` for a path longer than the kernel takes, and for any other failure of the
    /// system.
    public init(_ path: FilePath) throws(Refusal) {
        guard var address = LocalSocket.address(path) else {
            let limit = LocalSocket.longestPath
            throw .other(
                ImageError(.system, "the path of a socket can have \(limit) bytes at most", advice: "use a shorter one")
            )
        }
        let raw = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard raw >= 0 else { throw .other(ImageError(.system, "no socket: \(errorText(errno))")) }
        let fd = OwnedFD(taking: raw)
        let result = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(raw, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        if result != 0 {
            switch errno {
            case ECONNREFUSED, ENOENT: throw .noListener
            case EAGAIN: throw .busy
            default: throw .other(ImageError(.system, "cannot connect: \(errorText(errno))"))
            }
        }
        self.fd = fd
    }

    static let longestPath = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

    private static func address(_ path: FilePath) -> sockaddr_un? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.length <= longestPath else { return nil }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.bytes) }
        return address
    }

    /// Who listens at the other end.
    public struct Peer: Sendable {
        /// 0 when it lives in another pid namespace.
        public let pid: Int32
        /// User id of the process that called listen(2).
        public let user: UInt32
        /// Its group id.
        public let group: UInt32
    }

    /// SO_PEERCRED; nil where the kernel does not tell.
    public var peer: Peer? {
        // struct ucred, which glibc shows only under _GNU_SOURCE.
        var credentials: (Int32, UInt32, UInt32) = (0, 0, 0)
        var length = socklen_t(12)
        guard unsafe getsockopt(fd.raw, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0, length == 12 else {
            return nil
        }
        return Peer(pid: credentials.0, user: credentials.1, group: credentials.2)
    }

    /// Sends everything before `deadline`; false when the peer does not take it or has gone.
    public func send(_ bytes: [UInt8], before deadline: Deadline) -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes {
                unsafe Glibc.send(fd.raw, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count > 0 {
                rest = rest.dropFirst(count)
            } else if errno == EAGAIN {
                guard deadline.wait(fd.raw, for: POLLOUT) else { return false }
            } else if errno != EINTR {
                return false
            }
        }
        return true
    }

    /// What came of waiting for bytes.
    enum Outcome {
        case bytes([UInt8])
        case late
        case gone
    }

    /// The next line, without its end.
    func line(before deadline: Deadline) -> Outcome {
        while true {
            if let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                let line = Array(buffer[..<end])
                buffer.removeSubrange(...end)
                searched = 0
                return .bytes(line)
            }
            searched = buffer.count
            guard searched < LocalSocket.longestLine else { return .gone }
            if let end = fill(before: deadline) { return end }
        }
    }

    /// The next `count` bytes; nil when they do not come in time.
    public func bytes(_ count: Int, before deadline: Deadline) -> [UInt8]? {
        while buffer.count < count {
            if fill(before: deadline) != nil { return nil }
        }
        defer { buffer.removeFirst(count) }
        return Array(buffer[..<count])
    }

    /// Reads what is there; an outcome when nothing will come.
    private func fill(before deadline: Deadline) -> Outcome? {
        var piece = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = unsafe read(fd.raw, &piece, piece.count)
            if count > 0 {
                buffer += piece[..<count]
                return nil
            }
            if count == 0 { return .gone }
            switch errno {
            case EINTR: continue
            case EAGAIN: guard deadline.wait(fd.raw, for: POLLIN) else { return .late }
            default: return .gone
            }
        }
    }
}

/// The moment at which waiting ends.
public struct Deadline: Sendable {
    private let end: Int64

    /// So many milliseconds from now.
    public init(in milliseconds: Int64) { end = MonotonicClock.milliseconds() + milliseconds }

    /// Milliseconds that are left; 0 when it is over.
    public var left: Int64 { max(end - MonotonicClock.milliseconds(), 0) }
    /// No time is left.
    public var isOver: Bool { left == 0 }

    /// Waits until the descriptor is ready (true) or the time is over.
    func wait(_ fd: Int32, for events: Int32) -> Bool {
        while true {
            var entry = pollfd(fd: fd, events: Int16(events), revents: 0)
            let ready = unsafe poll(&entry, 1, Int32(clamping: left))
            if ready > 0 { return true }
            if ready == 0 || errno != EINTR { return false }
        }
    }
}
