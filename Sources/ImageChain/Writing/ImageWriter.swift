// A QCOW2 image that is written has one helper thread. It does with plain reads and writes what a request must not
// wait for on a worker: tables, refcounts, and the write-back in the order of WriteOrdering.md. Workers ask it and
// are rung when something has changed.

public import DiskTypes
import Glibc
import LinuxIO
public import QCOW2
import Synchronization
public import SystemPackage

/// What changes one image, for all of its workers.
public final class ImageWriter: Sendable {
    public let plan: QCOW2Writer
    private let storage: HostFile
    /// The external data file.
    private let data: HostFile?
    private let startLength: UInt64
    private let event: EventFD
    private let clients = Mutex<[WriterClient]>([])
    private let clientCount = Atomic<Int>(0)
    private let flushes = Mutex<Flushes>(Flushes())
    private let thread = Mutex<HelperThread>(HelperThread())
    private let quits = Atomic<Bool>(false)
    private let discards = Atomic<Bool>(false)
    /// What only the helper thread may do, for a caller that waits.
    private let tasks = Mutex<[WriterTask]>([])

    private struct WriterTask {
        /// Nil: bring everything to the disk.
        let journal: MappingJournal?
        let outcome: Mailbox<Result<JournalReplay, ImageError>>
    }

    private struct Flushes {
        var wanted: UInt64 = 0
        var done: UInt64 = 0
        /// Those that failed, and why.
        var failures: [(tickets: ClosedRange<UInt64>, error: Int32)] = []

        mutating func end(_ target: UInt64, _ error: Int32) {
            defer { done = target }
            guard error != 0, target > done else { return }
            // One entry for failures in a row: they may go on for ever.
            if let last = failures.last, last.error == error, last.tickets.upperBound == done {
                failures[failures.count - 1].tickets = last.tickets.lowerBound...target
            } else {
                failures.append((done + 1...target, error))
            }
        }
    }

    private struct HelperThread: ~Copyable { var running: WorkerThread? }

    init(plan: QCOW2Writer, storage: HostFile, data: HostFile?) throws(ImageError) {
        self.plan = plan
        self.storage = storage
        self.data = data
        startLength = storage.length
        do throws(Errno) { event = try EventFD() } catch {
            throw ImageError(.system, "cannot make an event descriptor: \(error)", number: error.rawValue)
        }
        epoch = .allocate(capacity: 1)
        epoch.initialize(to: Atomic(0))
    }

    deinit { epoch.deallocate() }

    // MARK: workers

    /// A worker's place: made before its first request, given back after its last.
    public func addClient() throws(Errno) -> WriterClient {
        let client = WriterClient(clientCount.add(1, ordering: .relaxed).newValue, try EventFD())
        try startHelper()
        clients.withLock { $0.append(client) }
        plan.enter(client.number)
        return client
    }

    public func leave(_ client: WriterClient) {
        stopWaiting(client)
        plan.leave(client.number)
        clients.withLock { $0.removeAll { $0 === client } }
    }

    /// Space of freed clusters goes back to the file system.
    public func returnsSpace(_ does: Bool) { discards.store(does, ordering: .relaxed) }

    /// Begins a write that allocates. `.busy` and `.wants`: the client is rung when to ask again, if it `waits`.
    public func begin(_ guest: GuestOffset, length: UInt64, by client: WriterClient) -> WriteGrant {
        let grant = plan.begin(guest, length: length, at: client.number)
        if case .wants = grant { event.signal() }
        return grant
    }

    public func zero(_ guest: GuestOffset, length: UInt64, _ mode: ZeroMode) -> ZeroGrant {
        let grant = plan.zero(guest, length: length, mode)
        if case .wants = grant { event.signal() }
        return grant
    }

    public func finish(_ ticket: AllocatingWrite, isWritten: Bool, by client: WriterClient) {
        let isFull = plan.finish(ticket, isWritten: isWritten)
        ring(except: client)
        if isFull { event.signal() }
    }

    /// See `QCOW2Writer.foundCorruption`.
    public func foundCorruption() {
        plan.foundCorruption()
        event.signal()
    }

    /// Asks for everything so far to be on the disk; `result` tells.
    public func requestFlush() -> UInt64 {
        let ticket = flushes.withLock { flushes in
            flushes.wanted += 1
            return flushes.wanted
        }
        event.signal()
        return ticket
    }

    /// 0 or an errno; nil: not yet.
    public func result(of ticket: UInt64) -> Int32? {
        flushes.withLock { flushes in
            guard flushes.done >= ticket else { return nil }
            return flushes.failures.first { $0.tickets.contains(ticket) }?.error ?? 0
        }
    }

    /// The client is rung from here on when something changes.
    public func startWaiting(_ client: WriterClient) {
        guard !client.waits.exchange(true, ordering: .sequentiallyConsistent) else { return }
        waiters.add(1, ordering: .sequentiallyConsistent)
    }
    public func stopWaiting(_ client: WriterClient) {
        guard client.waits.exchange(false, ordering: .sequentiallyConsistent) else { return }
        waiters.subtract(1, ordering: .sequentiallyConsistent)
    }
    /// Seats that wait. Never less than there are: who looks at it while another rings must not miss one.
    private let waiters = Atomic<Int>(0)

    private func ring(except own: WriterClient? = nil) {
        guard waiters.load(ordering: .sequentiallyConsistent) > 0 else { return }
        clients.withLock { clients in
            for client in clients where client !== own && client.waits.load(ordering: .sequentiallyConsistent) {
                client.bell.signal()
            }
        }
    }

    // MARK: the helper

    private func startHelper() throws(Errno) {
        let result: Result<Void, Errno> = thread.withLock { thread in
            guard thread.running == nil else { return .success(()) }
            do throws(Errno) {
                thread.running = try WorkerThread.start("qblk-writer", HelperLife(writer: self))
                return .success(())
            } catch { return .failure(error) }
        }
        try result.get()
    }

    /// Brings everything to the disk and ends the helper thread. No write may come after it.
    public func close() throws(ImageError) {
        quits.store(true, ordering: .sequentiallyConsistent)
        event.signal()
        let running = thread.withLock { $0.running.take() }
        guard let running else {
            // Once it has failed it cannot be mended here: every later answer must say so.
            if let why = closeFailure.withLock({ $0 }) { throw why }
            return
        }
        running.join()
        do throws(ImageError) { try end() } catch {
            closeFailure.withLock { $0 = error }
            throw error
        }
    }
    private let closeFailure = Mutex<ImageError?>(nil)

    /// The last changes, when no more can come.
    private func end() throws(ImageError) {
        if plan.isCut {
            throw ImageError(
                .malformed,
                "the file was cut while it was in use: what came after the last good flush is not in the image",
                path: storage.path)
        }
        if let lost = plan.syncFailure {
            throw ImageError(
                .system, "a flush has failed: what came after the last good one is not in the image", number: lost)
        }
        try plan.giveBackReserved(storage)
        // Freeing was the last change.
        _ = try plan.writeBack(to: storage, data: data)
        try plan.trim(storage, startLength: startLength)
        plan.endJournal()
        // What a killed process had taken and not used counts as used. When it stays so, those are leaks, no more.
        if plan.mayLeak { _ = try? ImageCheck.repair(storage, .leaks) }
    }

    fileprivate func help() {
        var waiting = FreedClusters()
        var grace: (freed: FreedClusters, parity: Int)?
        while true {
            let quits = quits.load(ordering: .sequentiallyConsistent)
            let pause: Int32 = quits ? 0 : grace != nil ? 1 : plan.isDirty ? 5000 : -1
            let isCalled = (try? event.wait(milliseconds: pause)) ?? true
            event.take()
            waiting.append(runErrands())
            let mustWrite = fulfilWants()
            let target = flushes.withLock { $0.wanted > $0.done ? $0.wanted : nil }
            let isIdle = !isCalled && grace == nil
            if target != nil || mustWrite || plan.isFull || (isIdle || quits) && plan.isDirty {
                waiting.append(writeBack(upTo: target, isAwaited: mustWrite))
            }
            if let old = grace, quits || isOver(old.parity) {
                do throws(ImageError) {
                    try plan.release(
                        old.freed, storage: storage, discards: discards.load(ordering: .relaxed))
                } catch {}  // They are leaks, which a check finds.
                grace = nil
                ring()
            }
            if grace == nil, !waiting.isEmpty {
                grace = (waiting, turnEpoch())
                waiting = FreedClusters()
            }
            if quits, grace == nil, waiting.isEmpty, target == nil { return }
        }
    }

    // MARK: a process that is killed

    /// From here on changes stand in `journal`, too, which outlives this process; what a killed one left in it is true
    /// again. No request may be in flight, none may come meanwhile. When it throws, it can be tried again.
    public func use(_ journal: MappingJournal) throws(ImageError) -> JournalReplay { try send(journal) }

    /// Everything so far is on the disk afterwards. For when no request is in flight.
    public func flushAndIdle() throws(ImageError) {
        guard thread.withLock({ $0.running != nil }), plan.isDirty else { return }
        _ = try send(nil)
    }

    private func send(_ journal: MappingJournal?) throws(ImageError) -> JournalReplay {
        let outcome: Mailbox<Result<JournalReplay, ImageError>>
        do throws(Errno) {
            outcome = try Mailbox()
            try startHelper()
        } catch {
            throw ImageError(.system, "cannot start the image's writer: \(error)", number: error.rawValue)
        }
        tasks.withLock { $0.append(WriterTask(journal: journal, outcome: outcome)) }
        event.signal()
        while true {
            if let result = outcome.take().first { return try result.get() }
            do throws(Errno) { try outcome.wait(milliseconds: -1) } catch {}  // Interrupted: it looks again.
        }
    }

    /// What became free on the way.
    private func runErrands() -> FreedClusters {
        var freed = FreedClusters()
        let list = tasks.withLock { tasks in
            defer { tasks = [] }
            return tasks
        }
        for task in list {
            do throws(ImageError) {
                guard let journal = task.journal else {
                    freed.append(try bringAll())
                    task.outcome.post(.success(.fresh))
                    continue
                }
                task.outcome.post(.success(try replay(journal)))
            } catch { task.outcome.post(.failure(error)) }
        }
        return freed
    }

    private func bringAll() throws(ImageError) -> FreedClusters {
        if let lost = plan.syncFailure { throw ImageError(.system, "a flush has failed before", number: lost) }
        try plan.giveBackReserved(storage)
        return try plan.writeBack(to: storage, data: data)
    }

    private func replay(_ journal: MappingJournal) throws(ImageError) -> JournalReplay {
        let file = storage.identity
        let adoption = try plan.use(
            journal, identity: file.device &* 0x9e37_79b9_7f4a_7c15 ^ file.inode, storage: storage, data: data)
        switch adoption {
        case .fresh, .changes: break
        // The killed process left no number.
        case .afterFailure: foundLoss(EIO)
        case .refused: owesError.store(true, ordering: .relaxed)
        }
        return adoption
    }

    /// True when a write-back is wanted.
    private func fulfilWants() -> Bool {
        let wants = plan.takePrerequisites()
        for want in wants where want != .writeBack {
            do throws(ImageError) { try plan.satisfy(want, storage) } catch { plan.fail(want, error.answer) }
        }
        if !wants.isEmpty { ring() }
        return wants.contains(.writeBack)
    }

    /// `isAwaited`: writes wait for L2 slices to leave memory. When they cannot, that is those writes' error.
    private func writeBack(upTo target: UInt64?, isAwaited: Bool) -> FreedClusters {
        var error: Int32 = 0
        var freed = FreedClusters()
        if let lost = plan.syncFailure {
            error = lost
        } else {
            do throws(ImageError) { freed = try plan.writeBack(to: storage, data: data) } catch let failure {
                error = failure.answer
                if plan.hasFailedSync { foundLoss(error) }
            }
        }
        if isAwaited, error != 0 { plan.fail(.writeBack, error) }
        if target != nil, owesError.exchange(false, ordering: .relaxed) { error = EIO }
        if let target { flushes.withLock { $0.end(target, error) } }
        ring()
        return freed
    }

    /// A sync failed with errno `error`, here or on a worker's ring: the kernel has forgotten what it could not write. No
    /// mapping that names those clusters may reach the disk from here on, and every later flush and change gets that errno.
    public func foundLoss(_ error: Int32) { plan.giveUp(error) }

    /// Whether a flush must go by the helper.
    public var flushesMapping: Bool { owesError.load(ordering: .relaxed) || plan.hasFailedSync || plan.isDirty }
    /// Changes of a killed process are lost: the guest must not be told that they are safe, so its next flush fails.
    private let owesError = Atomic<Bool>(false)

    // MARK: grace

    /// From here on, new requests count apart from those before. Gives the parity of those before.
    private func turnEpoch() -> Int {
        clients.withLock { clients in
            let before = Int(epoch.pointee.load(ordering: .relaxed) & 1)
            epoch.pointee.store(epoch.pointee.load(ordering: .relaxed) &+ 1, ordering: .sequentiallyConsistent)
            // What workers have stored before is seen from here on.
            MemoryBarrier.process()
            return before
        }
    }
    nonisolated(unsafe) let epoch: UnsafeMutablePointer<Atomic<UInt32>>

    /// No request that began before the turn is in flight.
    private func isOver(_ parity: Int) -> Bool {
        clients.withLock { $0.allSatisfy { $0.count(parity) == 0 } }
    }
}

private struct HelperLife: ThreadWork, ~Copyable {
    let writer: ImageWriter
    consuming func run() { writer.help() }
}
