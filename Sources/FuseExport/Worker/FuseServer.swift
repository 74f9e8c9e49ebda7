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
    /// Called once, within a second after it was noticed that the image was cut.
    var lost: () -> Void = {}

    /// Milliseconds between two looks whether the workers have noticed a cut. They cannot tell it themselves: they do nothing
    /// but carry requests.
    private static let lossInterval: Int32 = 1000

    /// Serves until the connection ends. `serving` is called once every thread is ready for requests.
    func run(serving: () -> Void) throws(ImageError) {
        let starts: Mailbox<ImageError?>
        do throws(Errno) { starts = try Mailbox() } catch { throw Self.failed(error) }
        let gate = Gate()
        for (index, device) in devices.enumerated() {
            do throws(Errno) {
                let work = WorkerLife(
                    chain: chain, file: file, count: devices.count, device: device, index: index, starts: starts,
                    gate: gate)
                _ = try WorkerThread.start("qblk-fuse", work)
            } catch { throw Self.failed(error) }
        }
        var waiting = devices.count
        while waiting > 0 {
            var entry = pollfd(fd: starts.fd, events: Int16(POLLIN), revents: 0)
            unsafe poll(&entry, 1, -1)
            for report in starts.take() {
                if let error = report { throw error }
                waiting -= 1
            }
        }
        serving()
        if chain.isWritable {
            while !gate.waitForEnds(devices.count, milliseconds: Self.lossInterval) {
                guard chain.wasCut else { continue }
                lost()
                break
            }
        }
        gate.waitForEnds(devices.count)
    }

    static func failed(_ error: Errno) -> ImageError { ImageError(.system, "cannot start a worker: \(error)") }
}

/// The work of one worker's thread, from making its ring to the end of the connection.
private struct WorkerLife: ThreadWork {
    let chain: ImageChain
    let file: FuseFile
    /// Number of workers.
    let count: Int
    let device: Int32
    let index: Int
    let starts: Mailbox<ImageError?>
    let gate: Gate

    consuming func run() {
        // The kernel tends to wake both workers on one processor.
        ThreadFlags.spread(index, of: count)
        // The flag belongs to each thread; it may not be inherited from the thread that made this one.
        do throws(Errno) { try ThreadFlags.markAsIOFlusher() } catch {}  // `ServerProtection` has told.
        do throws(ImageError) {
            let worker = try FuseWorker(
                fuse: device, chain: chain, file: file, workers: count)
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

    /// Waits for the ends of `count` threads, at most `milliseconds` (-1: for ever); whether they have ended.
    @discardableResult func waitForEnds(_ count: Int, milliseconds: Int32 = -1) -> Bool {
        let end = MonotonicClock.milliseconds() + Int64(milliseconds)
        while ended.withLock({ $0 }) < count {
            let left = milliseconds < 0 ? -1 : Int32(clamping: end - MonotonicClock.milliseconds())
            if milliseconds >= 0, left <= 0 { return false }
            guard let event else {
                usleep(100_000)
                continue
            }
            var entry = pollfd(fd: event.fd, events: Int16(POLLIN), revents: 0)
            unsafe poll(&entry, 1, left)
            _ = event.take()
        }
        return true
    }
}
