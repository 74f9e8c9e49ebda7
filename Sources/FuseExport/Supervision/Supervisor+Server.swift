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
    func startServer() throws(ImageError) {
        guard let devices = connection?.devices, let files = chain?.files.map(\.fd) else { return }
        serving = false
        hasHeardAll = false
        supervision?.serverStarts()
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
    /// or is dead (which `serverEnded` is told).
    func hear() -> ImageError? {
        guard let pipe = server?.report.raw else { return nil }
        do throws(ImageError) {
            guard let report = try LoopReport.receive(pipe) else {
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

    /// While a map is being made the server's death is an error; later another follows, where that is of use.
    func serverEnded(_ end: ChildProcess.End) -> Bool {
        server = nil
        guard record != nil else {
            failure =
                failure
                ?? ImageError(
                    .system, "the server \(Self.text(end)) before it served",
                    advice: end == .killed(signal: SIGKILL)
                        ? "is its memory limit too small? a writable map takes about 80 MiB" : nil)
            return false
        }
        guard !hasGivenUp else { return false }
        guard connection?.canResend == true else {
            // What the dead server had taken would wait for ever. Errors are better than that.
            log.error(
                "the server \(Self.text(end)); this kernel cannot repeat its requests: the disk now fails all requests")
            LoopCleanup.abort(diskPath)
            return false
        }
        return true
    }

    func willRestart(in pause: Int64, after end: ChildProcess.End) {
        log.error("the server \(Self.text(end)): starting another\(pause > 0 ? " in \(pause) ms" : "")")
    }

    private static func text(_ end: ChildProcess.End) -> String {
        switch end {
        case .exited(let code): "ended with code \(code)"
        case .killed(let signal): "was killed by signal \(signal)"
        }
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

    func restartServer() {
        do throws(ImageError) { try startServer() } catch { return log.error("\(error)") }
        rewriteRecord()
        if connection?.resend() != true { log.error("the kernel does not repeat the requests of the dead server") }
    }
}
