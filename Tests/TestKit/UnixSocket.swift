// Tests talk to QEMU and to the guest over sockets, and the other side may never answer. Every wait here has an end.

import Foundation
import Synchronization

/// A connection to a Unix socket, read by lines and by counts of bytes.
public final class UnixSocket: Sendable {
    private let descriptor: Int32
    private let pending = Mutex<[UInt8]>([])

    /// Connects as soon as a process listens, at most `deadline` seconds from now.
    public init(_ path: String, deadline: Double = 20) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw TestFailure("no socket: \(String(cString: strerror(errno)))") }
        let end = now() + deadline
        while !UnixSocket.connect(descriptor, path) {
            let reason = String(cString: strerror(errno))
            guard now() < end else {
                close(descriptor)
                throw TestFailure("\(path): \(reason)")
            }
            usleep(20_000)
        }
    }

    deinit { close(descriptor) }

    private static func connect(_ descriptor: Int32, _ path: String) -> Bool {
        withAddress(path) { Foundation.connect(descriptor, $0, $1) == 0 }
    }

    /// Listens on `path`; the descriptor is the caller's.
    public static func listen(_ path: String) throws -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        let bound = withAddress(path) { bind(descriptor, $0, $1) == 0 }
        guard bound, Foundation.listen(descriptor, 8) == 0 else {
            let reason = String(cString: strerror(errno))
            close(descriptor)
            throw TestFailure("cannot listen on \(path): \(reason)")
        }
        return descriptor
    }

    private static func withAddress<R>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let room = MemoryLayout.size(ofValue: address.sun_path) - 1
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix(room)) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }

    public func send(_ text: String) throws {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw TestFailure("the other side has gone") }
            rest = rest.dropFirst(count)
        }
    }

    /// The next line, without its end.
    public func line(deadline: Double = 20) throws -> String {
        try take(deadline: deadline) { bytes in bytes.firstIndex(of: UInt8(ascii: "\n")).map { ($0, $0 + 1) } }
    }

    public func text(of count: Int, deadline: Double = 20) throws -> String {
        try take(deadline: deadline) { $0.count >= count ? (count, count) : nil }
    }

    /// Reads until `cut` says how many bytes are the answer and how many to take away.
    private func take(deadline: Double, _ cut: ([UInt8]) -> (Int, Int)?) throws -> String {
        let end = now() + deadline
        return try pending.withLock { bytes in
            while true {
                if let (count, used) = cut(bytes) {
                    let answer = String(decoding: bytes[..<count], as: UTF8.self)
                    bytes.removeFirst(used)
                    return answer
                }
                var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
                let left = end - now()
                guard left > 0, poll(&wait, 1, Int32(left * 1000) + 1) > 0 else {
                    throw TestFailure("no answer in \(deadline) s")
                }
                var piece = [UInt8](repeating: 0, count: 65536)
                let count = read(descriptor, &piece, piece.count)
                guard count > 0 else { throw TestFailure("the other side has gone") }
                bytes += piece[..<count]
            }
        }
    }
}
