// One connection with a front-end, from its first message to its end. This file says which function answers which
// message; the extensions have these functions. A front-end may send anything at any time: a message that makes no
// sense is refused, and what cannot be refused ends the connection, never the process.
import BlockEngine
import LinuxIO
import Logging
import SystemPackage
import VhostUserWire
import Virtqueue

/// An answer, and a descriptor that is sent with it.
struct Reply {
    let bytes: [UInt8]
    let descriptor: SharedFD?
    init(_ bytes: [UInt8], _ descriptor: SharedFD? = nil) {
        self.bytes = bytes
        self.descriptor = descriptor
    }
}

/// One connection with a front-end. For its export's control thread only.
final class Session {
    let export: Export
    let socket: Int32
    var reader: MessageReader
    var log: Logger { export.log }

    var features: UInt64 = 0
    var protocolFeatures: ProtocolFeatures = []
    var status: UInt8 = 0
    var rings: [RingSetup]
    /// The current regions, and the tables of them that workers use.
    var mappings: [GuestMapping] = []
    let memory: GuestMemory
    var logArea: SharedArea?
    var inflight: InflightArea?
    var backendSocket: SharedFD?
    /// A ring that has stopped, and whose base the front-end is about to get.
    var finishedRing: Int?
    /// The capacity (in sectors) that the front-end has read on this connection; nil: none.
    var knownCapacity: UInt64?
    /// The capacity (in sectors) that the front-end was told of while rings ran; nil: none.
    var announcedCapacity: UInt64?
    /// Refusals that were logged: a front-end that sends more of them must not fill the log.
    private var saidRefusals = 0
    private static let refusalsSaid = 20

    init(_ export: Export, socket: Int32, stop: Int32) throws(VirtqueueError) {
        self.export = export
        self.socket = socket
        reader = MessageReader(socket: socket, stop: stop, notice: export.resized.raw)
        rings = Array(repeating: RingSetup(), count: export.queueCount)
        memory = try GuestMemory()
    }

    /// Serves until the connection or the server ends; then every ring is stopped. True: the server ends.
    func run() -> Bool {
        defer { giveUpRings() }
        while true {
            do throws(NoMessage) {
                try serve(reader.next())
            } catch {
                if error == .noticed {
                    takeInSize()
                    continue
                }
                if case .broken(let why) = error { export.sayBroken(why) }
                // The server ended in order: another file may be served to this front-end next.
                if error == .stopped, giveUpRings() { inflight?.owner?.release() }
                return error == .stopped
            }
        }
    }

    private func serve(_ message: FrontendMessage) throws(NoMessage) {
        let header = message.header
        guard let request = header.frontendRequest else {
            return try acknowledge(header, .failure(Refusal("request \(header.request) is unknown")))
        }
        let result: Result<Reply?, Refusal>
        do throws(Refusal) {
            result = .success(try answer(request, message))
        } catch {
            result = .failure(error)
        }
        if case .success(let reply?) = result {
            try send(reply.bytes, descriptors: reply.descriptor)
            return forgetFinishedRing()
        }
        if case .failure(let refusal) = result, request.hasReply || refusal.endsConnection {
            // The request needs an answer and there is none, or there is no disk: the connection ends.
            throw .broken("\(request): \(refusal.why)")
        }
        try acknowledge(header, result)
    }

    /// Tells a front-end that asked for it how a request without an answer of its own went: 0 is success.
    private func acknowledge(_ header: MessageHeader, _ result: Result<Reply?, Refusal>) throws(NoMessage) {
        var failed: UInt64 = 0
        if case .failure(let refusal) = result {
            failed = 1
            saidRefusals += 1
            if saidRefusals <= Self.refusalsSaid { log.warning("\(export.name): refused: \(refusal.why)") }
            if saidRefusals == Self.refusalsSaid { log.warning("\(export.name): no more is said of this") }
        }
        guard header.needsReply, protocolFeatures.contains(.replyAck) else { return }
        try send(WireNumber(failed).reply(to: header))
    }

    private func send(_ bytes: [UInt8], descriptors: SharedFD? = nil) throws(NoMessage) {
        try reader.waitWritable()
        do throws(Errno) {
            try DescriptorMessage.send(bytes, descriptors: descriptors.map { [$0.raw] } ?? [], over: socket)
        } catch {
            throw error == .brokenPipe || error == .connectionReset
                ? .closed : .broken("an answer cannot be sent: \(error)")
        }
    }

    /// Decodes a payload; one that is malformed is refused.
    func decode<Payload: WirePayload>(_: Payload.Type, _ message: FrontendMessage) throws(Refusal) -> Payload {
        do throws(WireError) { return try Payload(decoding: message.payload) } catch { throw Refusal("\(error)") }
    }

    /// The answer to a request; nil for one that has none.
    private func answer(_ request: FrontendRequest, _ message: FrontendMessage) throws(Refusal) -> Reply? {
        switch request {
        case .getFeatures: return number(offeredFeatures, message)
        case .setFeatures: try setFeatures(decode(WireNumber.self, message).value)
        case .getProtocolFeatures: return number(Self.offeredProtocol.rawValue, message)
        case .setProtocolFeatures: try setProtocolFeatures(decode(WireNumber.self, message).value)
        case .setOwner, .resetOwner: break
        case .getQueueNum: return number(UInt64(export.queueCount), message)
        case .getMaxMemorySlots: return number(UInt64(Self.memorySlots), message)
        case .setMemoryTable: try setMemory(decode(MemoryTable.self, message), message.descriptors)
        case .addMemoryRegion: try addMemory(decode(SingleRegion.self, message).region, message.descriptors)
        case .removeMemoryRegion: try removeMemory(decode(SingleRegion.self, message).region)
        case .setLogBase: return try setLog(message)
        case .setLogFD, .setVringEndian: break
        case .setVringNum, .setVringBase, .setVringAddress, .setVringEnable, .setVringKick, .setVringCall,
            .setVringErr:
            try setRing(request, message)
        case .getVringBase: return try stopRing(decode(VringState.self, message), message)
        case .getConfig: return try getConfig(message)
        case .setConfig: try setConfig(decode(ConfigAccess.self, message))
        case .getInflightFD: return try makeInflight(message)
        case .setInflightFD: try setInflight(decode(InflightDescription.self, message), message.descriptors)
        case .setBackendRequestFD: try setBackendSocket(message.descriptors)
        case .setStatus: try setStatus(decode(WireNumber.self, message).value)
        case .getStatus: return number(UInt64(status), message)
        case .resetDevice: reset()
        default: throw Refusal("\(request) is nothing for a disk")
        }
        return nil
    }

    func number(_ value: UInt64, _ message: FrontendMessage) -> Reply {
        Reply(WireNumber(value).reply(to: message.header))
    }
}
