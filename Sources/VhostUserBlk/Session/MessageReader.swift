// Messages come over a stream socket, in any pieces, with descriptors that must be closed. The one place that reads
// them; what it hands out is whole, and has no more descriptors than its kind may have.
import Glibc
import LinuxIO
import SystemPackage
import VhostUserWire

/// One message of the front-end.
struct FrontendMessage {
    let header: MessageHeader
    let payload: [UInt8]
    /// Closed when the message is dropped, unless they are taken.
    let descriptors: [SharedFD]
}

/// Why there is no next message.
enum NoMessage: Error, Equatable {
    /// The front-end closed the connection.
    case closed
    /// The server is to end.
    case stopped
    /// Something else wants the session's attention; the next message may still come.
    case noticed
    /// What came breaks the protocol, or the socket failed.
    case broken(String)
}

struct MessageReader {
    let socket: Int32
    /// Readable when the server is to end.
    let stop: Int32
    /// Readable when the session is wanted for something else.
    let notice: Int32
    /// Reads since the last look at the other two.
    private var unwatched = 0
    private static let mostUnwatched = 16

    init(socket: Int32, stop: Int32, notice: Int32) {
        self.socket = socket
        self.stop = stop
        self.notice = notice
    }

    /// Waits for the next message.
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

    /// Exactly `count` bytes. The end is only an end between two messages.
    private mutating func read(
        _ count: Int, _ descriptors: inout [SharedFD], isStart: Bool
    ) throws(NoMessage) -> [UInt8] {
        var bytes: [UInt8] = []
        // With a header its sender has sent the rest, and often the next message, too: that is looked for before it is waited
        // for. Who never stops talking must not keep the server from its end.
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

    /// Waits until an answer can be sent: a front-end that takes none must not hold up the server's end.
    func waitWritable() throws(NoMessage) {
        var entries = [
            pollfd(fd: socket, events: Int16(POLLOUT), revents: 0), pollfd(fd: stop, events: Int16(POLLIN), revents: 0),
        ]
        while poll(&entries, 2, -1) < 0 {
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
        while poll(&entries, isStart ? 3 : 2, -1) < 0 {
            if errno != EINTR { throw .broken("poll fails: \(errorText(errno))") }
        }
        if entries[1].revents != 0 { throw .stopped }
        if entries[2].revents != 0 { throw .noticed }
    }
}
