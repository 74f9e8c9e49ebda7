// The driver's side of a vhost-user session, without a virtual machine. Tests, fuzzers and the benchmark talk with it
// to any back-end.
import LinuxIO
public import SystemPackage
public import VhostUserWire
public import Virtqueue

/// A session with a back-end. For one thread; the queues, once started, may be driven by others.
///
///     let frontend = try VhostUserFrontend.connect("/run/disk.sock", FrontendOptions())
///     let client = try BlockClient(frontend)          // a queue with a driver
///     try frontend.start()
///     let answer = try client.perform(.read(sector: 0, count: 4096))
///     try frontend.stop()
public final class VhostUserFrontend {
    /// The back-end's socket.
    public let path: FilePath
    /// What was asked for.
    public let options: FrontendOptions
    /// The memory that the back-end gets.
    public let memory: FrontendMemory
    /// The connection; `reconnect` replaces it.
    public private(set) var connection: FrontendConnection

    /// The feature word that the back-end offers.
    public private(set) var offered: UInt64 = 0
    /// The protocol features that the back-end offers.
    public private(set) var offeredProtocol: ProtocolFeatures = []
    /// The feature word that was agreed on.
    public private(set) var features: UInt64 = 0
    /// The protocol features that were agreed on.
    public private(set) var protocolFeatures: ProtocolFeatures = []
    /// Queues that the back-end can have; 1 without MQ.
    public private(set) var maxQueues = 1
    /// The queues that were added, by their numbers.
    public private(set) var queues: [FrontendQueue] = []
    /// Between `start` and `stop`.
    public private(set) var isRunning = false
    /// The record of requests in flight, once a start has fetched it.
    public internal(set) var inflight: InflightRecord?
    /// The back-end's own messages, if BACKEND_REQ was agreed on.
    public internal(set) var backendRequests: BackendRequests?

    /// The agreed features that change how rings are read and written.
    public var ringFeatures: RingFeatures { RingFeatures(negotiated: features) }

    /// Connects and agrees on features; there are no queues yet. Throws an `Errno` when there is no server,
    /// `FrontendError.lacks` when the back-end has no virtio 1 or no packed rings although they were asked for, and
    /// other `FrontendError`s.
    public static func connect(
        _ path: FilePath, _ options: FrontendOptions = FrontendOptions()
    ) throws(any Error) -> VhostUserFrontend {
        let socket = try UnixSocket.connect(path)
        let frontend = try VhostUserFrontend(
            path, options, FrontendConnection(socket, milliseconds: options.milliseconds))
        try frontend.negotiate()
        return frontend
    }

    init(_ path: FilePath, _ options: FrontendOptions, _ connection: FrontendConnection) throws(FrontendError) {
        self.path = path
        self.options = options
        self.connection = connection
        memory = try FrontendMemory(options.memory)
    }

    /// Adds the queue with the number `queues.count`, for the next start. Throws `.system` when there are no eventfds.
    public func addQueue(_ areas: RingAreas) throws(FrontendError) -> FrontendQueue {
        let base = ringFeatures.contains(.packed) ? FrontendQueue.packedStart : FrontendQueue.splitStart
        let queue = try FrontendQueue(index: queues.count, areas: areas, base: base)
        queues.append(queue)
        return queue
    }

    // MARK: requests

    /// Sends a request and waits until the back-end has done it, if REPLY_ACK was agreed on. Throws `.refused` when the
    /// back-end says that it failed, and as `FrontendConnection.send` and `reply` do.
    public func ask(
        _ request: FrontendRequest, _ payload: some WirePayload, descriptors: [Int32] = []
    ) throws(FrontendError) {
        let acknowledged = protocolFeatures.contains(.replyAck) && !request.hasReply
        try connection.send(payload.message(request, needsReply: acknowledged), descriptors: descriptors)
        if acknowledged { try expectSuccess(request) }
        // Back-ends answer SET_LOG_BASE with different numbers, none of which says anything.
        if request == .setLogBase, protocolFeatures.contains(.logSharedMemory) { _ = try connection.reply(to: request) }
    }
    /// The same for a request without payload.
    public func ask(_ request: FrontendRequest, descriptors: [Int32] = []) throws(FrontendError) {
        let acknowledged = protocolFeatures.contains(.replyAck) && !request.hasReply
        try connection.send(MessageHeader.bare(request, needsReply: acknowledged), descriptors: descriptors)
        if acknowledged { try expectSuccess(request) }
    }

    private func expectSuccess(_ request: FrontendRequest) throws(FrontendError) {
        let value = try decode(WireNumber.self, connection.reply(to: request)).value
        if value != 0 { throw .refused(request, value) }
    }

    /// Sends a request and returns the number that answers it. Throws as `FrontendConnection.send` and `reply` do, and
    /// `.wire` for an answer of another size.
    public func number(_ request: FrontendRequest) throws(FrontendError) -> UInt64 {
        try connection.send(MessageHeader.bare(request))
        return try decode(WireNumber.self, connection.reply(to: request)).value
    }

    func decode<P: WirePayload>(_: P.Type, _ reply: FrontendReply) throws(FrontendError) -> P {
        do throws(WireError) {
            return try P(decoding: reply.payload)
        } catch {
            throw .wire(error)
        }
    }

    // MARK: agreeing

    private func negotiate() throws(FrontendError) {
        offered = try number(.getFeatures)
        features = offered & options.features
        guard offered & VirtioBlk.Feature.version1 != 0 else { throw .lacks("VIRTIO_F_VERSION_1") }
        if options.packed, features & VirtioBlk.Feature.ringPacked == 0 { throw .lacks("packed rings") }
        if features & VirtioBlk.Feature.protocolFeatures != 0 {
            offeredProtocol = ProtocolFeatures(rawValue: try number(.getProtocolFeatures))
            let agreed = offeredProtocol.intersection(options.protocolFeatures)
            // From here on the back-end may acknowledge messages, but not yet this one.
            try connection.tell(.setProtocolFeatures, WireNumber(agreed.rawValue))
            protocolFeatures = agreed
        }
        try ask(.setOwner)
        if protocolFeatures.contains(.multiQueue) { maxQueues = Int(clamping: try number(.getQueueNum)) }
        if protocolFeatures.contains(.backendRequests) { try openBackendRequests() }
    }

    /// Connects to the same path again, with the memory, the queues and the record of requests in flight as they are.
    /// The bases of the queues must be right: `stop` sets them; after a crash the driver knows them (`resumePosition`).
    /// Throws as `connect` does, and `.nonsense` when the features are not those of before.
    public func reconnect() throws(any Error) {
        let before = (features, protocolFeatures)
        isRunning = false
        let socket = try UnixSocket.connect(path)
        connection = FrontendConnection(socket, milliseconds: options.milliseconds)
        protocolFeatures = []
        try negotiate()
        guard features == before.0, protocolFeatures == before.1 else {
            throw FrontendError.nonsense("other features after a reconnect")
        }
    }

    // MARK: running

    /// Sends memory and queues to the back-end and enables them. Each queue is kicked once, so that the back-end sees
    /// what is in its ring already. Throws as `ask` does.
    public func start() throws(FrontendError) {
        try ask(.setFeatures, WireNumber(features))
        if protocolFeatures.contains(.inflightSharedMemory) { try shareInflight() }
        try shareMemory()
        for queue in queues { try start(queue) }
        isRunning = true
        for queue in queues { queue.kick.signal() }
    }

    /// Starts one queue, as it was added or stopped; without a kick. Throws as `ask` does.
    public func start(_ queue: FrontendQueue) throws(FrontendError) {
        let index = UInt32(queue.index)
        try ask(.setVringNum, VringState(index: index, num: UInt32(queue.areas.size)))
        try ask(.setVringBase, VringState(index: index, num: queue.base))
        try ask(.setVringAddress, address(of: queue))
        try ask(.setVringErr, VringEvent(index: index), descriptors: [queue.failure.raw])
        try ask(.setVringCall, VringEvent(index: index), descriptors: [queue.call.raw])
        try ask(.setVringKick, VringEvent(index: index), descriptors: [queue.kick.raw])
        if features & VirtioBlk.Feature.protocolFeatures != 0 {
            try ask(.setVringEnable, VringState(index: index, num: 1))
        }
    }

    /// The payload of SET_VRING_ADDR for a queue. `logged`: the guest address under which writes to its used ring are
    /// logged; nil: they are not.
    public func address(of queue: FrontendQueue, logged: UInt64? = nil) -> VringAddress {
        VringAddress(
            index: UInt32(queue.index), flags: logged == nil ? 0 : VringAddress.logFlag,
            descriptors: memory.user(queue.areas.descriptors), used: memory.user(queue.areas.device),
            avail: memory.user(queue.areas.driver), log: logged ?? 0)
    }

    /// Stops all queues; where each goes on is in its `base` then. Throws as `ask` does.
    public func stop() throws(FrontendError) {
        for queue in queues { try stop(queue) }
        isRunning = false
    }

    /// Stops one queue; where it goes on is in its `base` then. Throws `.nonsense` when the back-end answers for
    /// another queue, and as `ask` does.
    public func stop(_ queue: FrontendQueue) throws(FrontendError) {
        let state = VringState(index: UInt32(queue.index), num: 0)
        try connection.tell(.getVringBase, state)
        let answer = try decode(VringState.self, connection.reply(to: .getVringBase))
        guard answer.index == state.index else {
            throw .nonsense("queue \(answer.index) has stopped, not \(queue.index)")
        }
        queue.base = answer.num
    }

    /// Sends the memory's regions to the back-end, all at once or one by one (`oneRegionAtATime`). Throws as `ask`
    /// does.
    public func shareMemory() throws(FrontendError) {
        if options.oneRegionAtATime, protocolFeatures.contains(.configureMemorySlots) {
            for (region, fd) in zip(memory.regions, memory.descriptors) {
                try ask(.addMemoryRegion, SingleRegion(region), descriptors: [fd])
            }
        } else {
            try ask(.setMemoryTable, MemoryTable(memory.regions), descriptors: memory.descriptors)
        }
    }
}
