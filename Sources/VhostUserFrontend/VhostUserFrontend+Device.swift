// What a session has besides queues: the configuration space, the record of requests in flight that outlives a
// back-end, and the messages that the back-end sends.
public import LinuxIO
import SystemPackage
public import VhostUserWire

/// Shared memory in which a back-end records the requests that it has taken. The front-end keeps it for the next
/// back-end (INFLIGHT_SHMFD).
public final class InflightRecord {
    /// Where the record is in the file, and for how many queues.
    public let description: InflightDescription
    /// The file that the back-end made.
    public let file: OwnedFD
    init(_ description: InflightDescription, _ file: consuming OwnedFD) {
        self.description = description
        self.file = file
    }
}

/// The socket over which a back-end sends messages to its front-end (SET_BACKEND_REQ_FD).
public final class BackendRequests {
    private let pair: UnixSocket.Pair
    init(_ pair: consuming UnixSocket.Pair) { self.pair = pair }
    var farEnd: Int32 { pair.far.raw }

    /// The next message, answered with success if it asks for an answer; nil when none comes within `milliseconds`, or
    /// for a code that the protocol does not have. Throws an `Errno` or a `WireError`.
    public func next(milliseconds: Int32) throws -> BackendRequest? {
        guard try pair.near.waitReadable(milliseconds: milliseconds) else { return nil }
        let came = try DescriptorMessage.receive(
            limit: VhostUserLimits.headerBytes, descriptors: VhostUserLimits.maxDescriptors, over: pair.near.raw)
        for fd in came.descriptors { _ = OwnedFD(taking: fd) }
        let header = try MessageHeader(decoding: came.bytes)
        if header.payloadBytes > 0 {
            _ = try DescriptorMessage.receive(limit: header.payloadBytes, descriptors: 0, over: pair.near.raw)
        }
        if header.needsReply {
            try DescriptorMessage.send(WireNumber(0).reply(to: header), descriptors: [], over: pair.near.raw)
        }
        return header.backendRequest
    }
}

extension VhostUserFrontend {
    /// Reads `count` bytes of the device's configuration space, from `offset` on. Throws `.lacks` without the protocol
    /// feature CONFIG, `.nonsense` for an answer of another length, and as `FrontendConnection.reply` does.
    public func readConfig(offset: Int = 0, count: Int = 60) throws(FrontendError) -> [UInt8] {
        guard protocolFeatures.contains(.config) else { throw .lacks("GET_CONFIG") }
        let room = ConfigAccess(offset: UInt32(offset), data: Array(repeating: 0, count: count))
        try connection.tell(.getConfig, room)
        let answer = try decode(ConfigAccess.self, connection.reply(to: .getConfig))
        guard answer.data.count == count else {
            throw .nonsense("\(answer.data.count) bytes of configuration instead of \(count)")
        }
        return answer.data
    }

    /// Bytes of the disk, read from the configuration space. Throws as `readConfig` does, and `.nonsense` for 2^55
    /// sectors or more.
    public func capacity() throws(FrontendError) -> UInt64 {
        let sectors = try readConfig(offset: 0, count: 8)
        let count = sectors.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard count < 1 << 55 else { throw .nonsense("a capacity of \(count) sectors") }
        return count * 512
    }

    /// Writes bytes of the configuration space, from `offset` on. Throws `.lacks` without the protocol feature CONFIG,
    /// and as `ask` does.
    public func writeConfig(offset: Int, _ bytes: [UInt8]) throws(FrontendError) {
        guard protocolFeatures.contains(.config) else { throw .lacks("SET_CONFIG") }
        try ask(.setConfig, ConfigAccess(offset: UInt32(offset), data: bytes))
    }

    /// Fetches the record from the back-end at the first start, and sends it to the back-end at every start.
    func shareInflight() throws(FrontendError) {
        if inflight == nil {
            let wish = InflightDescription(
                mmapSize: 0, mmapOffset: 0, queueCount: UInt16(clamping: queues.count),
                queueSize: UInt16(clamping: queues.map(\.areas.size).max() ?? 0))
            try connection.tell(.getInflightFD, wish)
            let reply = try connection.reply(to: .getInflightFD)
            let description = try decode(InflightDescription.self, reply)
            guard description.mmapSize > 0, let file = reply.descriptors.take() else {
                throw .nonsense("that it keeps no record of requests in flight")
            }
            inflight = InflightRecord(description, file)
        }
        guard let inflight else { return }
        try ask(.setInflightFD, inflight.description, descriptors: [inflight.file.raw])
    }

    /// Makes a pair of sockets and gives one to the back-end.
    func openBackendRequests() throws(FrontendError) {
        let requests: BackendRequests
        do throws(Errno) {
            requests = BackendRequests(try UnixSocket.Pair())
        } catch {
            throw .system("cannot make a socket", error)
        }
        try ask(.setBackendRequestFD, descriptors: [requests.farEnd])
        backendRequests = requests
    }
}
