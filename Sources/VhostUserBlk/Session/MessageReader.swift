// Reads a front-end's messages from a stream socket, where they arrive in pieces, with descriptors that must be closed.
// A message that comes out is whole, and has no more descriptors than its kind may have.
import Glibc
import LinuxIO
import SystemPackage
import VhostUserWire

/// One message of the front-end.
struct FrontendMessage {
    let header: MessageHeader
    let payload: [UInt8]
    /// Closed when the message is dropped, unless the session keeps them.
    let descriptors: [SharedFD]
}

/// Why there is no next message.
enum NoMessage: Error, Equatable {
    /// The front-end closed the connection.
    case closed
    /// The server ends.
    case stopped
    /// Something else needs the session's attention; the next message may still come.
    case noticed
    /// What came breaks the protocol, or the socket failed.
    case broken(String)
}

struct MessageReader {
    let socket: Int32
    /// Readable when the server ends.
    let stop: Int32
    /// Readable when something else needs the session's attention.
    let notice: Int32
    /// Calls of `read` since `stop` and `notice` were polled last.
    private var unwatched = 0
    private static let mostUnwatched = 16

    init(socket: Int32, stop: Int32, notice: Int32) {
        self.socket = socket
        self.stop = stop
        self.notice = notice
    }

    /// Waits for the next message. Throws why there is none.
    mutating func next() throws(NoMessage) -> FrontendMessage {
        var descriptors: [SharedFD] = []
        let head = try read(VhostUserLimits.headerBytes, &descriptors, isStart: true)
        let header: MessageHeader
        do throws(WireError) { header = try MessageHeader(decoding: head) } catch { throw .broken("\(error)") }
        guard !header.isReply else { throw .broken("a reply came without a request") }
        let payload = try read(header.payloadBytes, &descriptors, isStart: false)
        let most = header.frontendRequest?.descriptors.upperBound ?? VhostUserLimits.maxDescriptors
        guard descriptors.count <= most else {
            throw .broken("\(descriptors.count) descriptors came with a message that has at most \(most)")
        }
        return FrontendMessage(header: header, payload: payload, descriptors: descriptors)
    }

    /// Exactly `count` bytes. The end of the connection is an error inside a message only.
    private mutating func read(
        _ count: Int, _ descriptors: inout [SharedFD], isStart: Bool
    ) throws(NoMessage) -> [UInt8] {
        var bytes: [UInt8] = []
        // A front-end that has sent a header has sent the rest, and often the next message, too: the socket is read
        // before it is polled. But after `mostUnwatched` reads it is polled all the same, so that a front-end which
        // never pauses cannot delay the server's end.
        unwatched += 1
        var mustWait = isStart && unwatched > Self.mostUnwatched
        while bytes.count < count {
            if mustWait {
                let isBetween = isStart && bytes.isEmpty
                try wait(isStart: isBetween)
                if isBetween { unwatched = 0 }
            }
            let part: (bytes: [UInt8], descriptors: [Int32])
            do throws(Errno) {
                part = try DescriptorMessage.receive(
                    limit: count - bytes.count, descriptors: VhostUserLimits.maxDescriptors, over: socket, waits: false)
            } catch {
                if error == .wouldBlock {
                    mustWait = true
                    continue
                }
                if error == .connectionReset { throw .closed }
                throw .broken("the socket fails: \(error)")
            }
            for fd in part.descriptors { descriptors.append(SharedFD(taking: fd)) }
            if part.bytes.isEmpty {
                throw isStart && bytes.isEmpty ? .closed : .broken("the connection ends inside a message")
            }
            guard descriptors.count <= VhostUserLimits.maxDescriptors else {
                throw .broken("more than \(VhostUserLimits.maxDescriptors) descriptors came with one message")
            }
            if bytes.isEmpty { bytes = part.bytes } else { bytes += part.bytes }
        }
        return bytes
    }

    /// Waits until an answer can be sent. Throws `.stopped` when the server ends: a front-end that reads no answers
    /// must not delay that.
    func waitWritable() throws(NoMessage) {
        var entries = [
            pollfd(fd: socket, events: Int16(POLLOUT), revents: 0), pollfd(fd: stop, events: Int16(POLLIN), revents: 0),
        ]
        while unsafe poll(&entries, 2, -1) < 0 {
            if errno != EINTR { throw .broken("poll fails: \(errorText(errno))") }
        }
        if entries[0].revents == 0 { throw .stopped }
    }

    private func wait(isStart: Bool) throws(NoMessage) {
        let listen = Int16(POLLIN)
        var entries = [
            pollfd(fd: socket, events: listen, revents: 0), pollfd(fd: stop, events: listen, revents: 0),
            pollfd(fd: notice, events: listen, revents: 0),
        ]
        while unsafe poll(&entries, isStart ? 3 : 2, -1) < 0 {
            if errno != EINTR { throw .broken("poll fails: \(errorText(errno))") }
        }
        if entries[1].revents != 0 { throw .stopped }
        if entries[2].revents != 0 { throw .noticed }
    }
}
