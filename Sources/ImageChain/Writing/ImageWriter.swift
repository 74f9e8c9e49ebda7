// What changes one QCOW2 image, for all of its workers: they ask here for clusters, zeros and flushes. What needs I/O on
// the image's tables is left to one helper thread (WriterThread), which wakes the workers that wait for it.

public import DiskTypes
import LinuxIO
public import QCOW2
import Synchronization
public import SystemPackage

/// The writer of one image that is open for writing. Any thread may use it.
public final class ImageWriter: Sendable {
    /// The mapping's changes, in memory.
    public let plan: QCOW2Writer
    let storage: HostFile
    /// The external data file.
    let data: HostFile?
    /// Bytes that the file had when the writer was made.
    private let startLength: UInt64
    /// Wakes the helper thread.
    let event: EventFD
    let clients = WriterClients()
    let epoch = RequestEpoch()
    let flushes = FlushTickets()
    let tasks = WriterTasks()
    /// The helper thread ends once nothing is left to do.
    let quits = Atomic<Bool>(false)
    /// The space of freed clusters goes back to the file system.
    let discards = Atomic<Bool>(false)

    private struct Helper: ~Copyable { var running: WorkerThread? }
    private let helper = Mutex<Helper>(Helper())
    private let closeFailure = Mutex<ImageError?>(nil)

    init(plan: QCOW2Writer, storage: HostFile, data: HostFile?) throws(ImageError) {
        self.plan = plan
        self.storage = storage
        self.data = data
        startLength = storage.length
        do throws(Errno) { event = try EventFD() } catch {
            throw ImageError(.system, "cannot make an event descriptor: \(error)", number: error.rawValue)
        }
    }

    // MARK: clients

    /// A worker's client, made before its first request. `leave` gives it back after its last. Throws when the system has
    /// no descriptor or no thread left.
    public func addClient() throws(Errno) -> WriterClient {
        let client = try clients.make()
        try startHelper()
        clients.add(client)
        plan.enter(client.number)
        return client
    }

    /// Gives a client back that has no request in flight.
    public func leave(_ client: WriterClient) {
        stopWaiting(client)
        plan.leave(client.number)
        clients.remove(client)
    }

    /// Where the requests of a client's worker are counted.
    public func counts(of client: WriterClient) -> InFlightCounts { InFlightCounts(client, epoch) }

    /// The client is woken from here on when something changes.
    public func startWaiting(_ client: WriterClient) { clients.startWaiting(client) }
    /// The client is not woken any more.
    public func stopWaiting(_ client: WriterClient) { clients.stopWaiting(client) }

    // MARK: changes

    /// Whether the space of freed clusters goes back to the file system.
    public func returnsSpace(_ does: Bool) { discards.store(does, ordering: .relaxed) }

    /// Begins a write of up to `length` bytes that allocates. After `.busy` and `.wants` the client is woken when to ask
    /// again, if it `waits`.
    public func begin(_ guest: GuestOffset, length: UInt64, by client: WriterClient) -> WriteGrant {
        let grant = plan.begin(guest, length: length, at: client.number)
        if case .wants = grant { event.signal() }
        return grant
    }

    /// Makes up to `length` bytes at `guest` zero by their entries. See `QCOW2Writer.zero`.
    public func zero(_ guest: GuestOffset, length: UInt64, _ mode: ZeroMode) -> ZeroGrant {
        let grant = plan.zero(guest, length: length, mode)
        if case .wants = grant { event.signal() }
        return grant
    }

    /// Ends a write that `begin` granted. `isWritten`: all of its bytes are in the file; else the mapping stays as it is.
    public func finish(_ write: AllocatingWrite, isWritten: Bool, by client: WriterClient) {
        let isFull = plan.finish(write, isWritten: isWritten)
        clients.notifyWaiters(except: client)
        if isFull { event.signal() }
    }

    /// See `QCOW2Writer.foundCorruption`.
    public func foundCorruption() {
        plan.foundCorruption()
        event.signal()
    }

    /// A sync failed with errno `error`, here or on a worker's ring: the kernel has forgotten what it could not write. No
    /// mapping that names those clusters may reach the disk from here on, and every later flush and change gets that errno.
    public func foundLoss(_ error: Int32) { plan.giveUp(error) }

    // MARK: flushes

    /// Asks for everything so far to be on the disk. Gives a ticket, for which `result` has the answer.
    public func requestFlush() -> UInt64 {
        let ticket = flushes.request()
        event.signal()
        return ticket
    }

    /// The answer to a flush, 0 or an errno; nil while there is none.
    public func result(of ticket: UInt64) -> Int32? { flushes.result(of: ticket) }

    /// Whether a flush must go by the helper thread: the disk lacks changes, or the flush must fail.
    public var flushesMapping: Bool { flushes.failsNext || plan.hasFailedSync || plan.isDirty }

    // MARK: tasks of the helper

    /// From here on changes stand in `journal`, too, which outlives this process; what a killed one left in it is true
    /// again. No request may be in flight, none may come meanwhile. When it throws, it can be tried again.
    public func use(_ journal: MappingJournal) throws(ImageError) -> JournalReplay { try perform(journal) }

    /// Everything so far is on the disk afterwards. For when no request is in flight.
    public func flushAndIdle() throws(ImageError) {
        guard helper.withLock({ $0.running != nil }), plan.isDirty else { return }
        _ = try perform(nil)
    }

    private func perform(_ journal: MappingJournal?) throws(ImageError) -> JournalReplay {
        let outcome: Mailbox<Result<JournalReplay, ImageError>>
        do throws(Errno) {
            outcome = try Mailbox()
            try startHelper()
        } catch {
            throw ImageError(.system, "cannot start the image's writer: \(error)", number: error.rawValue)
        }
        tasks.add(WriterTask(journal: journal, outcome: outcome))
        event.signal()
        while true {
            if let result = outcome.take().first { return try result.get() }
            do throws(Errno) { try outcome.wait(milliseconds: -1) } catch {}  // Interrupted: it looks again.
        }
    }

    // MARK: beginning and end

    private func startHelper() throws(Errno) {
        let result: Result<Void, Errno> = helper.withLock { helper in
            guard helper.running == nil else { return .success(()) }
            do throws(Errno) {
                helper.running = try WorkerThread.start("qblk-writer", WriterThread(writer: self))
                return .success(())
            } catch { return .failure(error) }
        }
        try result.get()
    }

    /// Brings everything to the disk and ends the helper thread. No request may be in flight, and none may follow.
    public func close() throws(ImageError) {
        quits.store(true, ordering: .sequentiallyConsistent)
        event.signal()
        let running = helper.withLock { $0.running.take() }
        guard let running else {
            // Once it has failed it cannot be mended here: each caller must be told so.
            if let why = closeFailure.withLock({ $0 }) { throw why }
            return
        }
        running.join()
        do throws(ImageError) { try end() } catch {
            closeFailure.withLock { $0 = error }
            throw error
        }
    }

    /// The last changes, when no thread makes others any more.
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
}
