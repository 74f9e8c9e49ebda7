// The process: workers that carry requests, and for each export a thread that talks to its front-end, one connection
// after the other, until the server is told to end.
public import LinuxIO
public import Logging
import BlockEngine
public import DiskTypes
import Glibc
import SystemPackage
import Virtqueue

/// How the process works.
public struct ServerOptions: Sendable {
    /// Threads that carry requests.
    public var workers = 1
    public var poll = PollMode.adaptive
    public init() {}
}

/// Where an export's front-ends connect to: a socket that listens, or is connected already.
public enum ExportSocket: ~Copyable, Sendable {
    case listener(UnixListener)
    case connection(UnixSocket)
}

/// Serves disks to vhost-user front-ends.
///
///     let server = try VhostUserServer(ServerOptions(), log: log)
///     try server.add(ExportOptions(chain: chain, name: "disk"), .listener(try UnixSocket.listen(path)))
///     ...                                  // until a signal comes
///     server.stop()                        // finishes what is in flight
public final class VhostUserServer {
    /// Queues that one export can have.
    public static let queueLimit = 256

    private let workers: [Mailbox<WorkerCommand>]
    private var workerThreads: [JoinBox]
    private var exportThreads: [JoinBox] = []
    private let stopEvent: StopEvent
    private let log: Logger
    private var exports: [Export] = []

    /// Starts the workers.
    public init(_ options: ServerOptions, log: Logger) throws(ImageError) {
        self.log = log
        var mailboxes: [Mailbox<WorkerCommand>] = []
        var threads: [JoinBox] = []
        for i in 0..<max(options.workers, 1) {
            let (mailbox, thread) = try Self.startWorker(i, options, log)
            mailboxes.append(mailbox)
            threads.append(thread)
        }
        do throws(Errno) { stopEvent = StopEvent(try EventFD()) } catch { throw Self.noThread(error) }
        workers = mailboxes
        workerThreads = threads
    }

    private static func startWorker(
        _ index: Int, _ options: ServerOptions, _ log: Logger
    ) throws(ImageError) -> (Mailbox<WorkerCommand>, JoinBox) {
        let ready = Answer<ImageError?>()
        let mailbox: Mailbox<WorkerCommand>
        let thread: JoinBox
        do throws(Errno) {
            mailbox = try Mailbox<WorkerCommand>()
            let life = WorkerLife(mailbox: mailbox, poll: options.poll, log: log, ready: ready)
            thread = JoinBox(try WorkerThread.start("qblk-worker-\(index)", life))
        } catch { throw noThread(error) }
        if let error = ready.wait() { throw error }
        return (mailbox, thread)
    }

    private static func noThread(_ error: Errno) -> ImageError {
        ImageError(.system, "cannot start a thread: \(errorText(error.rawValue))")
    }

    /// Begins to serve a disk.
    public func add(_ options: ExportOptions, _ socket: consuming ExportSocket) throws(ImageError) {
        let firstQueue = exports.reduce(0) { $0 + $1.queueCount }
        guard options.queueCount > 0, options.queueCount <= Self.queueLimit,
            options.blockSize >= 512, options.blockSize <= 1 << 20, options.blockSize & (options.blockSize - 1) == 0
        else {
            throw ImageError(
                .unsupported, "an export of \(options.queueCount) queues with blocks of \(options.blockSize) bytes",
                advice: "queues: 1 to \(Self.queueLimit); blocks: a power of two from 512 on")
        }
        do throws(Errno) {
            let export = try Export(
                options, number: exports.count, firstQueue: firstQueue, workers: workers, log: log)
            let life = ExportLife(export: export, socket: socket, stop: stopEvent)
            exportThreads.append(JoinBox(try WorkerThread.start("qblk-export-\(export.number)", life)))
            exports.append(export)
        } catch {
            throw Self.noThread(error)
        }
    }

    /// Looks whether images have grown, and tells the front-ends that do not know the size.
    public func refreshSizes() {
        for export in exports {
            // One that is elsewhere is opened anew before it is served again.
            guard let chain = export.image.chain else { continue }
            do throws(ImageError) {
                if try chain.refreshSize() {
                    export.change { $0.capacity = chain.size >> VirtioBlk.sectorBits }
                    log.info("\(export.name): the disk has \(chain.size) bytes now")
                }
            } catch {
                log.error("\(export.name): \(error)")
            }
            // Also when nothing has changed here: a front-end may know a size from a server before this one.
            export.resized.signal()
        }
    }

    /// True when every export's connection has ended and none can come: inherited connections do not come back.
    public var isOver: Bool { exports.allSatisfy { $0.isOver } }

    /// Ends: what is in flight is finished, connections and sockets are closed. False: something that was written may be
    /// lost, and the log says of which disk.
    @discardableResult public func stop() -> Bool {
        stopEvent.signal()
        for thread in exportThreads { thread.join() }
        for worker in workers { worker.post(.quit) }
        for thread in workerThreads { thread.join() }
        var isWhole = true
        for export in exports {
            guard let chain = export.image.chain else { continue }
            do throws(ImageError) {
                try chain.closeAndUnlock()
                // Of a raw image nothing is left to write here: what was written has failed before.
                let error = chain.flushed(0, buffered: true)
                if error != 0 { throw ImageError(.system, "a flush has failed: \(errorText(error))") }
            } catch {
                log.error("\(export.name): what was written last may be lost: \(error)")
                isWhole = false
            }
        }
        exportThreads = []
        workerThreads = []
        return isWhole
    }
}

/// Readable from the first signal on, for any number of threads.
final class StopEvent: Sendable {
    private let event: EventFD
    var fd: Int32 { event.raw }
    init(_ event: consuming EventFD) { self.event = event }
    func signal() { event.signal() }
}

/// Threads cannot be in arrays; their boxes can.
private final class JoinBox {
    private var thread: WorkerThread?
    init(_ thread: consuming WorkerThread) { self.thread = consume thread }
    func join() { if let thread = thread.take() { thread.join() } }
}
