// The server of a process: workers that carry requests, and for each export a thread that talks to its front-ends, one
// connection after the other, until the server is stopped.
public import LinuxIO
public import Logging
import BlockEngine
public import DiskTypes
import Glibc
import SystemPackage
import Virtqueue

/// How many threads carry requests, and how they wait.
public struct ServerOptions: Sendable {
    /// Threads that carry requests; at least 1.
    public var workers = 1
    /// How an idle worker waits for requests.
    public var poll = PollMode.adaptive
    /// One worker, adaptive polling.
    public init() {}
}

/// Where an export's front-ends connect: a listening socket, or one connection that exists already.
public enum ExportSocket: ~Copyable, Sendable {
    /// Front-ends connect to it, one after the other.
    case listener(UnixListener)
    /// The one connection; the export ends with it.
    case connection(UnixSocket)
}

/// Serves disks to vhost-user front-ends.
///
///     let server = try VhostUserServer(ServerOptions(), log: log)
///     try server.add(ExportOptions(chain: chain, name: "disk"), .listener(try UnixSocket.listen(path)))
///     ...                                  // until a signal comes
///     server.stop()                        // finishes what is in flight
public final class VhostUserServer {
    /// The most queues that one export can have.
    public static let queueLimit = 256

    private let workers: [Mailbox<WorkerCommand>]
    private var workerThreads: [JoinBox]
    private var exportThreads: [JoinBox] = []
    private let stopEvent: StopEvent
    private let log: Logger
    private var exports: [Export] = []

    /// Starts the workers. Throws `.system` when there is no thread, io_uring or eventfd.
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

    /// Begins to serve a disk. Throws `.unsupported` for a number of queues or a block size out of range, and `.system`
    /// when there is no thread.
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

    /// Asks whether images have grown, and announces a new size to front-ends that do not know it. Errors are logged.
    public func refreshSizes() {
        for export in exports {
            // A released image is opened anew before it is served again.
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

    /// True when every export's connection has ended and no other can come: inherited connections cannot be made again.
    public var isOver: Bool { exports.allSatisfy { $0.isOver } }

    /// Stops the server: what is in flight is finished, connections and sockets are closed. False: something that was
    /// written may be lost, and the log says of which disk.
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

/// An eventfd that stays readable from the first signal on, for any number of threads.
final class StopEvent: Sendable {
    private let event: EventFD
    var fd: Int32 { event.raw }
    init(_ event: consuming EventFD) { self.event = event }
    func signal() { event.signal() }
}

/// A thread as an element of an array, which takes no noncopyable values.
private final class JoinBox {
    private var thread: WorkerThread?
    init(_ thread: consuming WorkerThread) { self.thread = consume thread }
    func join() { if let thread = thread.take() { thread.join() } }
}
