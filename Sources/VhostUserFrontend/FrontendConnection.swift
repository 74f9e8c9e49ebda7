// The socket to a back-end: sends messages and receives answers, each answer within a time-out, because a back-end
// under test may send nothing, half of it, or something else. Tests may also send any bytes.
import Glibc
public import LinuxIO
import SystemPackage
public import VhostUserWire

/// Descriptors that came with an answer. Those that are not taken are closed with this object.
public final class ReceivedDescriptors {
    private var raw: [Int32] = []
    deinit { for fd in raw { close(fd) } }

    func add(_ more: [Int32]) { raw += more }
    /// Descriptors that are left.
    public var count: Int { raw.count }
    /// The first descriptor that is left, now owned by the caller; nil when there is none.
    public func take() -> OwnedFD? { raw.isEmpty ? nil : OwnedFD(taking: raw.removeFirst()) }
}

/// An answer, of which the header is decoded.
public struct FrontendReply {
    /// The header; its request is the one that was asked.
    public let header: MessageHeader
    /// The payload's bytes, not decoded.
    public let payload: [UInt8]
    /// The descriptors that came with the header.
    public let descriptors: ReceivedDescriptors
}

/// A connection to a back-end. For one thread.
public final class FrontendConnection {
    /// The socket's descriptor, for system calls; closing it breaks this object.
    public var raw: Int32 { socket.raw }
    private let socket: UnixSocket
    private let milliseconds: Int32

    /// Takes a connected socket. `milliseconds`: how long an answer may take.
    public init(_ socket: consuming UnixSocket, milliseconds: Int32) {
        self.socket = socket
        self.milliseconds = milliseconds
    }

    /// The process that listens, as the kernel knows it; nil when it cannot be asked.
    public var peer: Int32? { do { return try socket.peer().pid } catch { return nil } }

    /// Shuts the socket down; the back-end sees the end of the connection.
    public func shutDown() { socket.shutDown() }

    /// True when the back-end has closed the connection, within `wait` milliseconds.
    public func isClosed(wait: Int32 = 0) -> Bool {
        var entry = pollfd(fd: raw, events: 0, revents: 0)
        // POLLHUP comes without being asked for. A socket that only has bytes to read is not closed.
        return unsafe poll(&entry, 1, wait) > 0 && entry.revents & Int16(POLLHUP | POLLERR) != 0
    }

    /// Sends bytes as they are, with descriptors beside the first one. Throws `.disconnected` when the back-end has
    /// closed, and `.system`.
    public func send(_ bytes: [UInt8], descriptors: [Int32] = []) throws(FrontendError) {
        do throws(Errno) {
            try DescriptorMessage.send(bytes, descriptors: descriptors, over: raw)
        } catch {
            if error == .brokenPipe || error == .connectionReset { throw .disconnected(nil) }
            throw .system("cannot send to the back-end", error)
        }
    }

    /// Sends a request and waits for no answer. Throws as `send` does.
    public func tell<P: WirePayload>(
        _ request: FrontendRequest, _ payload: P, descriptors: [Int32] = []
    ) throws(FrontendError) {
        try send(payload.message(request), descriptors: descriptors)
    }

    /// Receives the answer to `request`, whatever it says. Throws `.silent` after the time-out, `.disconnected`,
    /// `.wire` for a header that breaks the protocol, `.wrongAnswer` for another code or no reply bit, and `.system`.
    public func reply(to request: FrontendRequest) throws(FrontendError) -> FrontendReply {
        let (head, descriptors) = try receive(VhostUserLimits.headerBytes, request)
        let header: MessageHeader
        do throws(WireError) {
            header = try MessageHeader(decoding: head)
        } catch {
            throw .wire(error)
        }
        let payload = header.payloadBytes == 0 ? [] : try receive(header.payloadBytes, request).bytes
        guard header.request == request.rawValue, header.isReply else {
            throw .wrongAnswer(to: request, code: header.request, flags: header.flags)
        }
        return FrontendReply(header: header, payload: payload, descriptors: descriptors)
    }

    /// Exactly `count` bytes, and the descriptors with them.
    private func receive(
        _ count: Int, _ request: FrontendRequest
    ) throws(FrontendError) -> (bytes: [UInt8], descriptors: ReceivedDescriptors) {
        var bytes: [UInt8] = []
        let descriptors = ReceivedDescriptors()
        while bytes.count < count {
            do throws(Errno) {
                guard try socket.waitReadable(milliseconds: milliseconds) else { throw Errno.timedOut }
                let came = try DescriptorMessage.receive(
                    limit: count - bytes.count, descriptors: VhostUserLimits.maxDescriptors, over: raw)
                descriptors.add(came.descriptors)
                if came.bytes.isEmpty { throw Errno.connectionReset }
                bytes += came.bytes
            } catch {
                if error == .timedOut { throw .silent(request) }
                if error == .connectionReset { throw .disconnected(request) }
                throw .system("cannot receive from the back-end", error)
            }
        }
        return (bytes, descriptors)
    }
}
