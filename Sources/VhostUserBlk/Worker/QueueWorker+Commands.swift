// What a worker does for sessions, between two passes over its queues. Commands may allocate and take time; requests
// wait meanwhile.
import BlockEngine
import DiskTypes
import LinuxIO
import Virtqueue

extension QueueWorker {
    /// Handles all commands that wait in the mailbox.
    func handleCommands() {
        mailWaits = false
        moved = true
        for command in mailbox.take() { handleCommands(command) }
    }

    private func handleCommands(_ command: WorkerCommand) {
        switch command {
        case .start(let start, let answer): answer.give(self.start(start))
        case .stop(let id, let answer): stop(id, answer)
        case .enable(let id, let isEnabled, let answer):
            answer.give(
                with(id) { place in
                    unsafe queues[place].isEnabled = isEnabled
                    unsafe queues[place].reopen()
                })
        case .event(let id, let event, let fd, let answer): answer.give(with(id) { setEvent($0, event, fd) })
        case .memory(let export, let snapshot, let files, let places, let answer):
            for place in self.places(of: export) {
                unsafe queues[place].engine._withUnsafeGuaranteedRef { $0.setGuestMemoryFiles(files) }
                unsafe queues[place].virtqueue.adopt(snapshot, places[queues[place].id])
            }
            settling.append((export, answer))
            hasEnds = true
        case .log(let id, let dirty, let ring, let used, let answer):
            answer.give(
                with(id) { place in
                    unsafe queues[place].virtqueue.setLog(dirty, ring: ring, usedGuestAddress: GuestAddress(used))
                })
        case .disk(let export, let disk, let isDurable, let answer):
            for place in self.places(of: export) {
                unsafe queues[place].disk = disk
                unsafe queues[place].engine._withUnsafeGuaranteedRef { $0.writeThrough = isDurable }
            }
            answer.give(true)
        case .quit: quits = true
        }
    }

    /// The places of an export's queues.
    private func places(of export: Int) -> [Int] {
        (0..<activeCount).map { unsafe Int(active[$0]) }.filter { unsafe queues[$0].id.export == export }
    }

    /// Calls `body` with the queue's place; false when this worker has no such queue.
    private func with(_ id: QueueID, _ body: (Int) -> Void) -> Bool {
        guard let place = (0..<activeCount).map({ unsafe Int(active[$0]) }).first(where: { unsafe queues[$0].id == id })
        else {
            return false
        }
        body(place)
        return true
    }

    // MARK: start and stop

    /// Starts a queue; returns nil, or why it cannot start.
    private func start(_ start: QueueStart) -> String? {
        guard let place = freePlaces.last else { return "the worker carries \(Self.queueLimit) queues already" }
        do {
            var virtqueue = try Virtqueue(size: start.size, features: start.features, memory: start.memory)
            let engine = try RequestEngine(
                chain: start.export.chain, ring: ring, slots: start.size, maxIovecs: ChainLimits.segments,
                number: UInt16(truncatingIfNeeded: place), seesPages: true, helper: helper)
            engine.setGuestMemoryFiles(start.memoryFiles)
            engine.writeThrough = start.isDurable
            engine.ignoresFlushes = start.export.ignoresFlushes
            engine.discards = start.export.discards
            virtqueue.setLog(start.log, ring: start.logsRing)
            try virtqueue.start(
                start.places, base: start.base, inflight: start.inflight,
                usedGuestAddress: GuestAddress(start.usedGuestAddress))
            freePlaces.removeLast()
            unsafe (queues + place).initialize(to: ServedQueue(start, virtqueue: virtqueue, engine: engine))
        } catch {
            return "\(error)"
        }
        unsafe active[activeCount] = Int32(place)
        activeCount += 1
        unsafe queues[place].virtqueue.disableKicks()
        if let call = unsafe queues[place].call { wake(call) }
        return nil
    }

    private func stop(_ id: QueueID, _ answer: Answer<StoppedQueue?>) {
        let found = with(id) { place in
            unsafe queues[place].state = .stopping(answer)
            unsafe queues[place].reopen()
            if unsafe queues[place].kickArmed {
                _ = ring.prepareCancel(userData: WorkerTag.kick | UInt64(place), userData: WorkerTag.cancel)
            }
        }
        if !found { answer.give(nil) }
        hasEnds = true
    }

    /// Gives up the queues that are done, and answers memory changes that no request in flight holds up any more.
    func endQueues() {
        var waits = false
        var i = 0
        while i < activeCount {
            let place = unsafe Int(active[i])
            if case .stopping(let answer) = unsafe queues[place].state {
                if unsafe queues[place].inFlight == 0, unsafe !queues[place].kickArmed {
                    giveUp(at: i, answer)
                    continue
                }
                waits = true
            }
            i += 1
        }
        settling.removeAll { change in
            let isSettled = places(of: change.export).allSatisfy { unsafe queues[$0].virtqueue.isSettled }
            if isSettled { change.answer.give(true) }
            return isSettled
        }
        hasEnds = waits || !settling.isEmpty
    }

    private func giveUp(at i: Int, _ answer: Answer<StoppedQueue?>) {
        let place = unsafe Int(active[i])
        let hasReplays = unsafe queues[place].virtqueue.replaysLeft > 0
        let base = unsafe queues[place].virtqueue.stop()
        unsafe (queues + place).deinitialize(count: 1)
        unsafe active[i] = unsafe active[activeCount - 1]
        activeCount -= 1
        freePlaces.append(place)
        answer.give(StoppedQueue(base: base, hasReplays: hasReplays))
    }

    private func setEvent(_ place: Int, _ event: QueueEvent, _ fd: SharedFD?) {
        switch event {
        case .kick:
            // The poll that is armed watches the old descriptor, which the ring holds until the poll ends.
            if unsafe queues[place].kickArmed {
                _ = ring.prepareCancel(userData: WorkerTag.kick | UInt64(place), userData: WorkerTag.cancel)
            }
            unsafe queues[place].kick = fd
            unsafe queues[place].kickFailed = false
            unsafe queues[place].reopen()
        case .call:
            unsafe queues[place].call = fd
            unsafe queues[place].callFD = fd?.raw ?? -1
            // The old descriptor may have missed a signal. One signal too many does no harm, one too few makes the
            // guest hang.
            if let fd { wake(fd) }
        case .err: unsafe queues[place].err = fd
        }
    }

    private func wake(_ fd: SharedFD) { signal(fd.raw) }
}
