// One connection: what is said is chosen by the input, from single messages with senseless numbers to whole
// handshakes that end in a running ring; what comes back must be answers that the protocol has.
import Glibc
import LinuxIO
import SystemPackage
import VhostUserWire

struct Conversation {
    private let socket: UnixSocketBox
    private(set) var isOpen = true
    var isPacked = false
    var rings = Array(repeating: RingBelief(), count: 4)
    private var came: [UInt8] = []
    /// What is said and not sent yet, and the descriptors that go with its first byte: what needs no answer in between goes
    /// out at once, or most of the time would go to two threads waking each other.
    private var pending: [UInt8] = []
    private var pendingFDs: [Int32] = []
    /// Every message so far was as long as it said: the next one will be read as one.
    private var isAligned = true
    /// Questions for the number of queues, each of which has one answer; and the answers that came.
    private var asked = 0
    private var answered = 0

    init(_ socket: UnixSocketBox) { self.socket = socket }

    /// Does the next thing.
    mutating func step(_ choices: inout Choices) {
        let what = choices.byte()
        if (90..<200).contains(what) || (205..<210).contains(what) { flush() }
        switch what {
        case 0..<46: message(UInt32(what), &choices)
        case 46..<60: handshake(&choices)
        case 60..<90: startRing(&choices)
        case 90..<130: publish(&choices, sound: true)
        case 130..<170: publish(&choices, sound: false)
        case 170..<180: kick(choices.byte())
        case 180..<190: cut(choices.byte() << 10)
        case 190..<200: sync()
        case 200..<205:
            isAligned = false
            send((0..<choices.byte() & 31).map { _ in UInt8(choices.byte()) }, [])
        case 205..<210: scribble(&choices)
        default: message(UInt32(what % 46), &choices)
        }
    }

    // MARK: sensible

    private mutating func say(_ request: FrontendRequest, _ payload: some WirePayload, _ fds: [Int32] = []) {
        send(payload.message(request), fds)
    }

    private mutating func handshake(_ choices: inout Choices) {
        let how = choices.byte()
        isPacked = how & 1 != 0
        var features: UInt64 = 1 << 30 | 1 << 32 | 1 << 28 | 1 << 9
        if isPacked { features |= 1 << 34 }
        if how & 2 != 0 { features |= 1 << 29 }
        if how & 4 != 0 { features |= 1 << 26 }
        let agreed: ProtocolFeatures = [
            .multiQueue, .logSharedMemory, .replyAck, .backendRequests, .config, .inflightSharedMemory, .resetDevice,
            .configureMemorySlots, .status,
        ]
        say(.setProtocolFeatures, WireNumber(agreed.rawValue))
        say(.setFeatures, WireNumber(features))
        if how & 8 != 0 { say(.setInflightFD, record(&choices), [guest.inflight]) }
        say(.setMemoryTable, MemoryTable([region]), [how & 16 != 0 ? guest.loose : guest.memory])
        if how & 4 != 0 { say(.setLogBase, LogDescription(mmapSize: 4096, mmapOffset: 0), [guest.log]) }
    }

    private var region: MemoryRegion {
        MemoryRegion(
            guestAddress: Guest.guestAddress, size: UInt64(Guest.bytes), userAddress: Guest.userAddress, mmapOffset: 0)
    }

    private func record(_ choices: inout Choices) -> InflightDescription {
        InflightDescription(
            mmapSize: 64 << 10, mmapOffset: 0, queueCount: UInt16(1 + choices.byte() % 4),
            queueSize: choices.of([8, 16, 64, 256]))
    }

    private mutating func startRing(_ choices: inout Choices) {
        let ring = choices.byte() & 3
        let size: Int = choices.of([8, 16, 64, 8, 128, 7])
        let index = UInt32(ring)
        rings[ring] = RingBelief(size: size)
        say(.setVringNum, VringState(index: index, num: UInt32(size)))
        say(.setVringBase, VringState(index: index, num: isPacked ? 0x8000_8000 : 0))
        let user = Guest.userAddress
        say(
            .setVringAddress,
            VringAddress(
                index: index, flags: UInt32(choices.byte() & 1), descriptors: user + UInt64(Guest.descriptorsAt(ring)),
                used: user + UInt64(Guest.deviceAt(ring)), avail: user + UInt64(Guest.driverAt(ring)),
                log: Guest.guestAddress + UInt64(Guest.deviceAt(ring))))
        say(.setVringCall, VringEvent(index: index), [guest.events[2 + ring & 1]])
        say(.setVringErr, VringEvent(index: index), [guest.events[4]])
        say(.setVringKick, VringEvent(index: index), [guest.events[ring & 1]])
        say(.setVringEnable, VringState(index: index, num: 1))
    }

    // MARK: senseless

    private mutating func message(_ code: UInt32, _ choices: inout Choices) {
        let request = FrontendRequest(rawValue: code)
        let index = UInt32(choices.byte() % 5)
        let event = guest.events[choices.byte() % 6]
        var payload: [UInt8] = []
        var fds: [Int32] = []
        switch request {
        case .setFeatures, .setProtocolFeatures, .setStatus: payload = WireNumber(choices.number()).encoded
        case .setMemoryTable:
            let list = (0...choices.byte() % 3).map { _ in anyRegion(&choices) }
            payload = MemoryTable(list).encoded
            fds = list.map { _ in choices.of([guest.memory, guest.loose]) }
        case .addMemoryRegion, .removeMemoryRegion:
            payload = SingleRegion(choices.byte() < 128 ? region : anyRegion(&choices)).encoded
            fds = request == .addMemoryRegion ? [choices.of([guest.memory, guest.loose])] : []
        case .setLogBase:
            payload = LogDescription(mmapSize: choices.number(), mmapOffset: choices.number()).encoded
            fds = [guest.log]
        case .setVringNum, .setVringBase, .getVringBase, .setVringEnable:
            payload = VringState(index: index, num: UInt32(truncatingIfNeeded: choices.number())).encoded
        case .setVringAddress:
            let user = Guest.userAddress
            payload =
                VringAddress(
                    index: index, flags: UInt32(choices.byte()), descriptors: user &+ choices.number(),
                    used: user &+ choices.number(), avail: user &+ choices.number(), log: choices.number()
                ).encoded
        case .setVringKick, .setVringCall, .setVringErr:
            let has = choices.byte() < 200
            payload = VringEvent(index: index, hasDescriptor: has).encoded
            fds = has ? [event] : []
        case .getConfig, .setConfig:
            let data = (0..<choices.byte() % 70).map { _ in UInt8(choices.byte()) }
            payload =
                ConfigAccess(
                    offset: UInt32(truncatingIfNeeded: choices.number()), flags: UInt32(choices.byte() & 1), data: data
                ).encoded
        case .getInflightFD: payload = record(&choices).encoded
        case .setInflightFD:
            payload =
                InflightDescription(
                    mmapSize: choices.number(), mmapOffset: choices.number(), queueCount: UInt16(choices.byte()),
                    queueSize: UInt16(truncatingIfNeeded: choices.number())
                ).encoded
            fds = [guest.inflight]
        case .setBackendRequestFD: fds = [guest.others[0]]
        default: break
        }
        // At times cut off, too long, or of another size than it says.
        let odd = choices.byte()
        if odd > 230 { payload = Array(payload.dropLast(odd & 7)) }
        if odd == 229 { payload += Array(repeating: 0xa5, count: choices.byte()) }
        if odd >= 228 { isAligned = false }
        let size = odd == 228 ? UInt32(truncatingIfNeeded: choices.number()) : UInt32(payload.count)
        let flags: UInt32 = odd == 227 ? UInt32(choices.byte()) : odd & 1 == 0 ? 9 : 1
        let head = [code, flags, size].flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } }
        if request == .getQueueNum { asked += 1 }
        send(head + payload, guest.descriptors(&choices, fitting: fds))
    }

    private func anyRegion(_ choices: inout Choices) -> MemoryRegion {
        MemoryRegion(
            guestAddress: Guest.guestAddress &+ choices.number() << 12, size: choices.number() << 8,
            userAddress: Guest.userAddress &+ choices.number() << 12, mmapOffset: choices.number() << 8)
    }

    /// Somewhere in the rings, or in the record of requests in flight.
    private func scribble(_ choices: inout Choices) {
        if choices.byte() < 128 {
            for _ in 0..<choices.byte() & 15 { guest.store(UInt16(choices.byte()), at: choices.byte() << 6 & 0xffff) }
        } else {
            var byte = UInt8(choices.byte())
            guest.use([guest.inflight])
            pwrite(guest.inflight, &byte, 1, off_t(choices.byte()))
        }
    }

    /// Memory becomes shorter, or longer.
    private func cut(_ bytes: Int) {
        guest.use([guest.loose])
        ftruncate(guest.loose, off_t(bytes))
    }

    // MARK: transport

    /// What the socket is ready for in time, or 0. libFuzzer's alarm, which comes twice a minute, is no answer.
    private func wait(_ events: Int32, milliseconds: Int32) -> Int32 {
        var entry = pollfd(fd: socket.raw, events: Int16(events), revents: 0)
        while true {
            let result = poll(&entry, 1, milliseconds)
            if result >= 0 { return result > 0 ? Int32(entry.revents) : 0 }
            guard errno == EINTR else { stop("poll fails") }
        }
    }

    private mutating func send(_ bytes: [UInt8], _ fds: [Int32]) {
        if !fds.isEmpty { guest.use(fds) }
        if !fds.isEmpty || pending.count + bytes.count > 4096 { flush() }
        if pending.isEmpty { pendingFDs = fds }
        pending += bytes
    }

    /// Sends what is said.
    private mutating func flush() {
        while isOpen, !pending.isEmpty {
            do throws(Errno) {
                try DescriptorMessage.send(pending, descriptors: pendingFDs, over: socket.raw)
                pending = []
            } catch {
                guard error == .wouldBlock else { return isOpen = false }
                // The server stops listening while its answers are not taken; who only talked would wait for ever.
                let events = wait(POLLIN | POLLOUT, milliseconds: 20_000)
                guard events != 0 else { stop("the server neither talks nor listens") }
                if events & POLLIN != 0 { isOpen = receive() }
            }
        }
    }

    /// Waits until everything before is done. What was cut off may swallow the question: then there is no wait.
    private mutating func sync() {
        asked += 1
        send(MessageHeader.bare(FrontendRequest.getQueueNum), [])
        flush()
        while isOpen, isAligned, answered < asked {
            guard wait(POLLIN, milliseconds: 20_000) != 0 else { stop("the server does not answer") }
            isOpen = receive()
        }
    }

    /// What is there; false at the end.
    private mutating func receive() -> Bool {
        let part: (bytes: [UInt8], descriptors: [Int32])
        do { part = try DescriptorMessage.receive(limit: 4096, descriptors: 8, over: socket.raw) } catch {
            return false
        }
        for fd in part.descriptors { close(fd) }
        came += part.bytes
        judge()
        return !part.bytes.isEmpty
    }

    /// Says that this is all, and reads to the end.
    mutating func finish() {
        flush()
        shutdown(socket.raw, Int32(SHUT_WR))
        while true {
            guard wait(POLLIN, milliseconds: 20_000) != 0 else { stop("the server hangs") }
            if !receive() { break }
        }
    }

    /// Everything that came is a row of answers.
    private mutating func judge() {
        while came.count >= VhostUserLimits.headerBytes {
            guard let header = try? MessageHeader(decoding: came), header.isReply
            else { stop("what came is no answer") }
            let end = VhostUserLimits.headerBytes + header.payloadBytes
            guard came.count >= end else { return }
            let payload = Array(came[VhostUserLimits.headerBytes..<end])
            came.removeFirst(end)
            if header.frontendRequest == .getQueueNum { answered += 1 }
            if header.frontendRequest == .getVringBase, let canary, let state = try? VringState(decoding: payload),
                state.index == 1, state.num & 0x7fff != 0, isPacked == (state.num >> 31 != 0)
            {
                plant(canary)
            }
        }
    }
}
