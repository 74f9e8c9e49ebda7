// How a supervisor starts servers, and replaces one that died. The next server has the same connection, and the kernel
// sends again what the dead one had not answered: users of the disk see a pause, not an error.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Logging
import QCOW2
import SystemPackage

extension Supervisor {
    /// Milliseconds; a server that lived longer did not die of its start.
    private static var longLife: Int64 { 5_000 }
    private static var longestPause: Int64 { 10_000 }

    func startServer() throws(ImageError) {
        guard let devices = connection?.devices, let files = chain?.files.map(\.fd) else { return }
        serving = false
        hasHeardAll = false
        startedAt = MonotonicClock.milliseconds()
        try makeJournal()
        server = try ServerProcess.start(config, devices: devices, files: files, journal: journal?.fd ?? -1)
    }

    /// Raw images have no mapping that changes.
    private func makeJournal() throws(ImageError) {
        guard !config.readOnly, config.format == .qcow2, journal == nil else { return }
        do throws(Errno) { journal = try SharedMemory("qblk-map", count: MappingJournal.usualBytes) } catch {
            throw ImageError(.system, "no memory for changes: \(errorText(error.rawValue))")
        }
    }

    /// Reads a report of the server, of its start or later of its image being cut: returns its error, or nil when it serves,
    /// or is dead (which `reapServer` finds).
    func hear() -> ImageError? {
        guard let pipe = server?.report.raw else { return nil }
        do throws(ImageError) {
            guard let report = try ReportPipe.receive(pipe) else {
                // A pipe that has ended would be readable for ever: no longer looked at, until the process is reaped.
                hasHeardAll = true
                serving = true
                return nil
            }
            if let error = report.thrown { return error }
            notes = report.notes ?? []
            serving = true
            return nil
        } catch {
            hasHeardAll = true
            return error
        }
    }

    /// Finds out whether the server died. While a map is being made that is an error; later the next server is planned.
    func reapServer() -> ImageError? {
        guard let process = server?.process else { return nil }
        let end: ChildProcess.End?
        do throws(Errno) { end = try process.poll() } catch { end = .exited(255) }
        guard let end else { return nil }
        server = nil
        let text =
            switch end {
            case .exited(let code): "ended with code \(code)"
            case .killed(let signal): "was killed by signal \(signal)"
            }
        guard record != nil else {
            return ImageError(
                .system, "the server \(text) before it served",
                advice: end == .killed(signal: SIGKILL)
                    ? "is its memory limit too small? a writable map takes about 80 MiB" : nil)
        }
        planRestart(after: text)
        return nil
    }

    /// Stops serving if the image's files are not what they were: no other server could help, and another disk's bytes
    /// must not be shown. After other errors of a server's start, the next one is tried.
    func refuseServing(_ error: ImageError) {
        guard !hasGivenUp else { return }
        switch error.kind {
        case .system, .locked: return
        case .reference, .malformed, .unsupported, .notFound: break
        }
        log.error("\(config.image): \(error): the disk now fails all requests")
        hasGivenUp = true
        recordFailure("\(error.what)")
        LoopCleanup.abort(diskPath)
    }

    private func planRestart(after text: String) {
        guard !hasGivenUp else { return }
        guard connection?.canResend == true else {
            // What the dead server had read would wait for ever: errors are better.
            log.error("the server \(text); this kernel cannot repeat its requests: the disk now fails all requests")
            LoopCleanup.abort(diskPath)
            return
        }
        quickDeaths = MonotonicClock.milliseconds() - startedAt > Self.longLife ? 0 : quickDeaths + 1
        let pause = quickDeaths < 2 ? 0 : min(50 << min(Int64(quickDeaths), 8), Self.longestPause)
        log.error("the server \(text): starting another\(pause > 0 ? " in \(pause) ms" : "")")
        restartAt = MonotonicClock.milliseconds() + pause
        if restartAt == 0 { restartAt = 1 }
    }

    func restart() {
        restartAt = 0
        do throws(ImageError) {
            try startServer()
        } catch {
            log.error("\(error)")
            quickDeaths += 1
            restartAt = MonotonicClock.milliseconds() + Self.longestPause
            return
        }
        rewriteRecord()
        if connection?.resend() != true { log.error("the kernel does not repeat the requests of the dead server") }
    }
}
