// The work of a server process: one open image, which all threads share, and a thread for each descriptor of the
// connection.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Synchronization
import SystemPackage

/// Serves a FUSE file with one thread for each descriptor of its connection.
struct FuseServer {
    let chain: ImageChain
    let file: FuseFile
    let devices: [Int32]

    /// Serves until the connection ends. `serving` is called once every thread is ready for requests.
    func run(serving: () -> Void) throws(ImageError) {
        let starts: Mailbox<ImageError?>
        do throws(Errno) { starts = try Mailbox() } catch { throw Self.failed(error) }
        let gate = Gate()
        for (index, device) in devices.enumerated() {
            do throws(Errno) {
                let work = WorkerLife(
                    server: self, device: device, index: index, starts: starts, gate: gate)
                _ = try WorkerThread.start("qblk-fuse", work)
            } catch { throw Self.failed(error) }
        }
        var waiting = devices.count
        while waiting > 0 {
            var entry = pollfd(fd: starts.fd, events: Int16(POLLIN), revents: 0)
            poll(&entry, 1, -1)
            for report in starts.take() {
                if let error = report { throw error }
                waiting -= 1
            }
        }
        serving()
        gate.waitForEnds(devices.count)
    }

    static func failed(_ error: Errno) -> ImageError { ImageError(.system, "cannot start a worker: \(error)") }
}

/// The work of one worker's thread, from making its ring to the end of the connection.
private struct WorkerLife: ThreadWork {
    let server: FuseServer
    let device: Int32
    let index: Int
    let starts: Mailbox<ImageError?>
    let gate: Gate

    consuming func run() {
        // The kernel tends to wake both workers on one processor.
        ThreadFlags.spread(index, of: server.devices.count)
        // The flag belongs to each thread; it may not be inherited from the thread that made this one.
        do throws(Errno) { try ThreadFlags.markAsIOFlusher() } catch {}  // `ServerProtection` has told.
        do throws(ImageError) {
            let worker = try FuseWorker(
                fuse: device, chain: server.chain, file: server.file, workers: server.devices.count)
            starts.post(nil)
            worker.run()
        } catch {
            starts.post(error)
        }
        gate.pass()
    }
}

/// Counts threads that have ended. The main thread does nothing but wait for them.
private final class Gate: Sendable {
    private let ended = Mutex(0)
    private let event: Mailbox<Int>?

    init() {
        do throws(Errno) { event = try Mailbox() } catch { event = nil }
    }

    func pass() {
        ended.withLock { $0 += 1 }
        event?.post(1)
    }

    func waitForEnds(_ count: Int) {
        while ended.withLock({ $0 }) < count {
            guard let event else {
                usleep(100_000)
                continue
            }
            var entry = pollfd(fd: event.fd, events: Int16(POLLIN), revents: 0)
            poll(&entry, 1, -1)
            _ = event.take()
        }
    }
}
