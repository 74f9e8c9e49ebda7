// Rings: their description, start and stop. A front-end describes a ring in half a dozen messages, in any order, and
// the ring starts when they are complete: its worker then gets all of it.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import SystemPackage
import VhostUserWire
import Virtqueue

/// What the front-end has said of one ring so far.
struct RingSetup {
    var size: Int?
    var base: UInt32 = 0
    var address: VringAddress?
    /// SET_VRING_KICK came: the ring may run, polled if there is no descriptor.
    var isKicked = false
    var kick: SharedFD?
    var call: SharedFD?
    var err: SharedFD?
    var isEnabled = false
    /// A worker carries the ring.
    var isStarted = false
}

extension Session {
    func id(_ index: Int) -> QueueID { QueueID(export: export.number, index: index) }

    private func ringIndex(_ index: UInt32) throws(Refusal) -> Int {
        guard let i = Int(exactly: index), i < rings.count else { throw Refusal("there is no ring \(index)") }
        return i
    }

    /// Sends a command to a ring's worker and waits for the answer.
    func ask<Value: Sendable>(_ index: Int, _ command: (Answer<Value>) -> WorkerCommand) -> Value {
        let answer = Answer<Value>()
        export.worker(of: index).post(command(answer))
        return answer.wait()
    }

    /// Sends a command to all workers that carry rings of this export, and waits for their answers.
    func spread(_ command: (Answer<Bool>) -> WorkerCommand) {
        var asked: [(worker: ObjectIdentifier, answer: Answer<Bool>)] = []
        for index in rings.indices where rings[index].isStarted {
            let worker = export.worker(of: index)
            guard !asked.contains(where: { $0.worker == ObjectIdentifier(worker) }) else { continue }
            let answer = Answer<Bool>()
            worker.post(command(answer))
            asked.append((ObjectIdentifier(worker), answer))
        }
        for (_, answer) in asked { _ = answer.wait() }
    }

    // MARK: description

    func setRing(_ request: FrontendRequest, _ message: FrontendMessage) throws(Refusal) {
        switch request {
        case .setVringAddress: try setAddress(decode(VringAddress.self, message))
        case .setVringKick, .setVringCall, .setVringErr:
            try setEvent(request, decode(VringEvent.self, message), message.descriptors)
        default: try setState(request, decode(VringState.self, message))
        }
    }

    private func setState(_ request: FrontendRequest, _ state: VringState) throws(Refusal) {
        let index = try ringIndex(state.index)
        if request == .setVringEnable {
            guard state.num <= 1 else { throw Refusal("a ring is enabled with 0 or 1") }
            rings[index].isEnabled = state.num == 1
            guard rings[index].isStarted else { return }
            let isEnabled = rings[index].isEnabled
            _ = ask(index) { .enable(id(index), isEnabled, $0) }
            return
        }
        guard !rings[index].isStarted else { throw Refusal("ring \(index) runs") }
        if request == .setVringBase {
            rings[index].base = state.num
        } else {
            guard state.num > 0, state.num <= 32768 else { throw Refusal("a ring cannot have \(state.num) entries") }
            rings[index].size = Int(state.num)
        }
        try startIfComplete(index)
    }

    private func setAddress(_ address: VringAddress) throws(Refusal) {
        let index = try ringIndex(address.index)
        if rings[index].isStarted, let old = rings[index].address {
            guard
                old.descriptors == address.descriptors && old.used == address.used && old.avail == address.avail
            else { throw Refusal("ring \(index) runs elsewhere") }
            rings[index].address = address
            return updateLog(index)
        }
        rings[index].address = address
        try startIfComplete(index)
    }

    private func setEvent(
        _ request: FrontendRequest, _ event: VringEvent, _ descriptors: [SharedFD]
    ) throws(Refusal) {
        let index = try ringIndex(event.index)
        guard event.hasDescriptor == !descriptors.isEmpty else { throw Refusal("the descriptor is not there") }
        let fd = descriptors.first
        if let fd { try Self.requireEventFD(fd.raw) }
        let kind: QueueEvent =
            switch request {
            case .setVringKick: .kick
            case .setVringCall: .call
            default: .err
            }
        switch kind {
        case .kick: (rings[index].kick, rings[index].isKicked) = (fd, true)
        case .call: rings[index].call = fd
        case .err: rings[index].err = fd
        }
        if rings[index].isStarted {
            _ = ask(index) { .event(id(index), kind, fd, $0) }
        } else if kind == .kick {
            try startIfComplete(index)
        }
    }

    /// A worker writes to these descriptors and polls them: one that is no eventfd could make it wait or never sleep.
    private static func requireEventFD(_ fd: Int32) throws(Refusal) {
        let wanted: StaticString = "anon_inode:[eventfd]"
        let isEventFD = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { name in
            guard let text = name.baseAddress else { return false }
            let count = unsafe readlink("/proc/self/fd/\(fd)", unsafe text, name.count)
            return unsafe count == wanted.utf8CodeUnitCount && memcmp(text, wanted.utf8Start, count) == 0
        }
        guard isEventFD else { throw Refusal("a ring's descriptor is no eventfd") }
        let flags = fcntl(fd, F_GETFL)
        if flags & O_NONBLOCK == 0 { _ = fcntl(fd, F_SETFL, flags | O_NONBLOCK) }
    }

    // MARK: start

    /// Starts the ring on its worker once everything about it is known.
    func startIfComplete(_ index: Int) throws(Refusal) {
        let ring = rings[index]
        guard !ring.isStarted, ring.isKicked, let size = ring.size, let address = ring.address, !mappings.isEmpty
        else { return }
        let ringFeatures = RingFeatures(negotiated: features)
        let places: RingAddresses
        do throws(VirtqueueError) {
            places = try RingAddresses(
                address.user, size: size, isPacked: ringFeatures.contains(.packed), in: memory.snapshot)
        } catch { throw Refusal("ring \(index): \(error)") }
        let chain = try image()
        let start = QueueStart(
            id: id(index), size: size, features: ringFeatures, memory: memory.snapshot,
            memoryFiles: mappings.compactMap(\.file), places: places, base: ring.base,
            inflight: try inflight?.memory(of: index), usedGuestAddress: address.log, log: dirtyLog,
            logsRing: address.isLogged, kick: ring.kick, call: ring.call, err: ring.err, isEnabled: ring.isEnabled,
            disk: export.disk, isDurable: isDurable, export: export.settings(chain))
        if let why = ask(index, { .start(start, $0) }) {
            log.error("\(export.name): ring \(index) does not start: \(why)")
            throw Refusal("ring \(index): \(why)")
        }
        rings[index].isStarted = true
        export.forgetTrouble()
        announceSizeAtStart()
    }

    // MARK: stop

    /// GET_VRING_BASE: finishes what is in flight, stops the ring, and answers where it goes on.
    func stopRing(_ state: VringState, _ message: FrontendMessage) throws(Refusal) -> Reply {
        let index = try ringIndex(state.index)
        if rings[index].isStarted {
            if let stopped = ask(index, { .stop(id(index), $0) }) {
                rings[index].base = stopped.base
                if !stopped.hasReplays { finishedRing = index }
            }
            rings[index].isStarted = false
            settle()
        }
        rings[index].isKicked = false
        rings[index].kick = nil
        return Reply(VringState(index: state.index, num: rings[index].base).reply(to: message.header))
    }

    /// To be called once the front-end has the answer to GET_VRING_BASE. A ring that was stopped this way has nothing
    /// in flight, and the base that the front-end gives next counts: that of a new driver's ring differs from the
    /// record's. The record must stay until the answer is sent: should this process die before, the next server needs
    /// it.
    func forgetFinishedRing() {
        if let index = finishedRing.take() { inflight?.forget(index) }
    }

    /// Stops all rings when what is in flight is finished: the front-end is gone, or the device is reset. True: the
    /// disk has everything.
    @discardableResult func giveUpRings() -> Bool {
        var answers: [Answer<StoppedQueue?>] = []
        for index in rings.indices where rings[index].isStarted {
            rings[index].isStarted = false
            let answer = Answer<StoppedQueue?>()
            export.worker(of: index).post(.stop(id(index), answer))
            answers.append(answer)
        }
        for answer in answers { _ = answer.wait() }
        return settle()
    }

    /// After the last ring has stopped, brings everything to the disk: a server that takes the guest over finds an
    /// empty journal. In a migration, releases the image too.
    @discardableResult private func settle() -> Bool {
        guard !rings.contains(where: \.isStarted) else { return true }
        do throws(ImageError) {
            if isMigrating, try export.image.release() {
                inflight?.owner?.release()
                log.info("\(export.name): the guest may go elsewhere, and its image with it")
            } else {
                try export.image.chain?.writer?.flushAndIdle()
            }
        } catch {
            log.error("\(export.name): what was written is not all on the disk: \(error)")
            return false
        }
        return true
    }

    /// The front-end logs what the device writes to the guest's memory, which happens only in a migration.
    private var isMigrating: Bool { features & VirtioBlk.Feature.logAll != 0 && logArea != nil }
}

extension VringAddress {
    /// The three addresses, in the front-end's own address space.
    var user: RingAddresses.Addresses { .user(descriptors: descriptors, driver: avail, device: used) }
}
