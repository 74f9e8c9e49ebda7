// Features and the configuration space: what this back-end offers, what the front-end accepts, what it reads and
// writes. Device status and reset are here, too.
import Glibc
import LinuxIO
import VhostUserWire
import Virtqueue

extension Session {
    /// Memory regions that one session can have: as many as with QEMU's libvhost-user.
    static let memorySlots = 509

    static let offeredProtocol: ProtocolFeatures = [
        .multiQueue, .logSharedMemory, .replyAck, .backendRequests, .config, .inflightSharedMemory, .resetDevice,
        .configureMemorySlots, .status,
    ]

    var offeredFeatures: UInt64 {
        export.disk.features | VirtioBlk.Feature.logAll | VirtioBlk.Feature.protocolFeatures
    }

    func setFeatures(_ wanted: UInt64) throws(Refusal) {
        guard wanted & ~offeredFeatures == 0 else {
            throw Refusal("features \(String(wanted & ~offeredFeatures, radix: 16)) were not offered")
        }
        let fixed = ~VirtioBlk.Feature.logAll
        guard (wanted ^ features) & fixed == 0 || !rings.contains(where: \.isStarted) else {
            throw Refusal("features cannot change while rings run")
        }
        // virtio 1.3, section 5.2.5: "If CONFIG_WCE is negotiated but FLUSH is not, the device MUST initialize
        // writeback to 0."
        let cache = VirtioBlk.Feature.flush | VirtioBlk.Feature.configWriteback
        if (wanted ^ features) & cache != 0, wanted & cache == VirtioBlk.Feature.configWriteback {
            export.change { $0.isWriteback = false }
        }
        features = wanted
        // Without PROTOCOL_FEATURES there is no message to enable a ring.
        if wanted & VirtioBlk.Feature.protocolFeatures == 0 {
            for i in rings.indices { rings[i].isEnabled = true }
        }
        updateLogs()
    }

    func setProtocolFeatures(_ wanted: UInt64) throws(Refusal) {
        guard wanted & ~Self.offeredProtocol.rawValue == 0 else {
            throw Refusal("protocol features \(String(wanted, radix: 16)) were not offered")
        }
        protocolFeatures = ProtocolFeatures(rawValue: wanted)
    }

    /// Whether writes must be durable before they are answered: the guest chose that, or it cannot flush.
    var isDurable: Bool {
        let canFlush = features & (VirtioBlk.Feature.flush | VirtioBlk.Feature.configWriteback) != 0
        return !canFlush || !export.disk.isWriteback
    }

    // MARK: configuration space

    /// Some front-ends count from the start of the device's registers.
    private static let oldOffset = 0x100

    func getConfig(_ message: FrontendMessage) throws(Refusal) -> Reply {
        let access = try decode(ConfigAccess.self, message)
        let offset = Int(access.offset) == Self.oldOffset ? 0 : Int(access.offset)
        guard offset + access.data.count <= VhostUserLimits.maxConfigBytes else {
            // vhost-user, GET_CONFIG: "uses a zero length of payload to indicate an error".
            return Reply(message.header.reply(payloadBytes: 0).encoded)
        }
        let disk = export.disk
        let all = disk.configuration(count: VhostUserLimits.maxConfigBytes)
        if offset == VirtioBlk.Config.capacity, access.data.count >= 8 { knownCapacity = disk.capacity }
        let answer = ConfigAccess(
            offset: access.offset, flags: access.flags, data: Array(all[offset..<offset + access.data.count]))
        return Reply(answer.reply(to: message.header))
    }

    /// Only the cache mode may be written. A migration writes the whole space, of which that byte is taken.
    func setConfig(_ access: ConfigAccess) throws(Refusal) {
        var bytes = access.data
        var offset = Int(access.offset)
        let mode = VirtioBlk.Config.writeback
        if access.flags == ConfigAccess.Purpose.migration, offset <= mode, offset + bytes.count > mode {
            bytes = [bytes[mode - offset]]
            offset = mode
        }
        var isTaken = false
        export.change { isTaken = $0.write(configuration: bytes, at: offset) }
        guard isTaken else { throw Refusal("the configuration space has nothing to write at \(offset)") }
        spread { answer in .disk(export: export.number, export.disk, isDurable: isDurable, answer) }
    }

    /// The socket for this side's own messages. It does not block: a front-end that does not read it must not make this
    /// side wait.
    func setBackendSocket(_ descriptors: [SharedFD]) throws(Refusal) {
        guard let fd = descriptors.first else { throw Refusal("the channel came without its descriptor") }
        _ = fcntl(fd.raw, F_SETFL, fcntl(fd.raw, F_GETFL) | O_NONBLOCK)
        backendSocket = fd
    }

    // MARK: size

    /// The size of the image was read again, and may be another: tells the workers, whose checks use it, and the
    /// front-end.
    func takeInSize() {
        export.resized.take()
        spread { .disk(export: export.number, export.disk, isDurable: isDurable, $0) }
        announceSize()
    }

    /// A ring has started. A front-end that connects again may go by the size that it read on an earlier connection,
    /// from a server before this one. QEMU ignores the announcement while no ring runs.
    func announceSizeAtStart() {
        if announcedCapacity != export.disk.capacity { announceSize() }
    }

    /// Tells the front-end to read the configuration space, unless it knows the disk's size.
    private func announceSize() {
        let capacity = export.disk.capacity
        guard knownCapacity != capacity else { return }
        if rings.contains(where: \.isStarted) { announcedCapacity = capacity }
        guard protocolFeatures.contains(.backendRequests), let backendSocket else { return }
        do {
            try DescriptorMessage.send(
                MessageHeader.bare(BackendRequest.configChange), descriptors: [], over: backendSocket.raw)
        } catch {
            log.warning("\(export.name): the front-end cannot be told of the new size: \(error)")
        }
    }

    // MARK: reset

    func setStatus(_ value: UInt64) throws(Refusal) {
        guard let value = UInt8(exactly: value) else { throw Refusal("a device status has 8 bits") }
        status = value
        if value == 0 { reset() }
    }

    /// Back to the state before the driver started: rings, features, the cache mode that it chose, and the record of
    /// its requests, which says nothing about the next driver's. What belongs to the connection stays: protocol
    /// features, memory, the log's memory (LOG_ALL is a feature), and the socket to the front-end.
    func reset() {
        giveUpRings()
        for index in rings.indices { inflight?.forget(index) }
        inflight = nil
        rings = Array(repeating: RingSetup(), count: export.queueCount)
        features = 0
        export.change { $0.isWriteback = export.startsWriteback }
        status = 0
    }
}
