// The control thread of one export: waits for a front-end, serves it until the connection ends, waits for the next. A
// new connection is the ordinary case: guests outlive servers, and servers outlive guests.
import Glibc
import LinuxIO
import SystemPackage
import VhostUserWire
import Virtqueue

/// The work of that thread.
struct ExportLife: ThreadWork, ~Copyable {
    let export: Export
    let socket: ExportSocket
    let stop: StopEvent

    consuming func run() {
        let (export, stop) = (export, stop)
        switch consume socket {
        case .connection(let connection):
            _ = serve(export, connection, stop)
        case .listener(let listener):
            while let connection = nextConnection(export, listener, stop) {
                if serve(export, connection, stop) { break }
            }
        }
        export.end()
    }
}

/// The next front-end; nil when the server ends.
private func nextConnection(
    _ export: Export, _ listener: borrowing UnixListener, _ stop: StopEvent
) -> UnixSocket? {
    while true {
        var entries = [
            pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0),
            pollfd(fd: stop.fd, events: Int16(POLLIN), revents: 0),
        ]
        if unsafe poll(&entries, 2, -1) < 0, errno != EINTR { return nil }
        if entries[1].revents != 0 { return nil }
        do throws(Errno) {
            if let connection = try listener.accept(milliseconds: 0) { return connection }
        } catch {
            // The process may be out of descriptors, which passes.
            export.log.error("\(export.name): a front-end cannot be accepted: \(error)")
            usleep(100_000)
        }
    }
}

/// Serves one connection; true when the server ends.
private func serve(_ export: Export, _ connection: borrowing UnixSocket, _ stop: StopEvent) -> Bool {
    do throws(VirtqueueError) {
        export.log.info("\(export.name): a front-end is there")
        let ends = try Session(export, socket: connection.raw, stop: stop.fd).run()
        export.log.info("\(export.name): the front-end is gone")
        return ends
    } catch {
        export.log.error("\(export.name): \(error)")
        return false
    }
}
