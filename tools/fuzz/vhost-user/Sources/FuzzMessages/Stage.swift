// The server that everything is said to, made once: a small disk in memory, two workers. Now and then an ordinary
// front-end looks whether it still serves, and whether it still holds what the others left.
import Glibc
import ImageChain
import LinuxIO
import Logging
import VhostUserBlk
import VhostUserClient
import VhostUserFrontend
import Virtqueue

/// A connection that closes when it is dropped.
final class UnixSocketBox {
    private let socket: UnixSocket
    var raw: Int32 { socket.raw }
    init(_ socket: consuming UnixSocket) { self.socket = socket }
}

final class Stage {
    static let bytes = 1 << 20
    private let folder: String
    private let server: VhostUserServer
    private var socket: String { "\(folder)/s" }
    private var descriptors = 0

    init() {
        folder = "/dev/shm/qblk-fuzz-\(getpid()).d"
        mkdir(folder, 0o700)
        let path = "\(folder)/disk"
        let fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        ftruncate(fd, off_t(Self.bytes))
        close(fd)
        var options = OpenOptions()
        options.format = .raw
        options.writable = true
        var how = ServerOptions()
        how.workers = 2
        how.poll = .off
        do {
            server = try VhostUserServer(how, log: Logger(label: "fuzz", factory: { _ in SwiftLogNoOpLogHandler() }))
            var export = ExportOptions(chain: try ImageChain.open(path: "\(path)", options: options), name: "disk")
            export.queueCount = 4
            try server.add(export, .listener(try UnixSocket.listen("\(folder)/s")))
        } catch { stop("no server: \(error)") }
        let path2 = folder
        _ = path2
        atexit { _ = system("rm -rf /dev/shm/qblk-fuzz-\(getpid()).d") }
    }

    func connect() -> UnixSocketBox {
        do {
            let box = UnixSocketBox(try UnixSocket.connect("\(socket)"))
            _ = fcntl(box.raw, F_SETFL, O_NONBLOCK)
            return box
        } catch { stop("no process listens: \(error)") }
    }

    /// An ordinary front-end is served, on split and packed rings.
    func check() {
        do {
            for packed in [false, true] {
                var options = FrontendOptions()
                options.packed = packed
                options.queueSize = 16
                options.memory = [(0, 1 << 20)]
                let frontend = try VhostUserFrontend.connect("\(socket)", options)
                let client = try BlockClient(frontend)
                try frontend.start()
                let bytes = (0..<512).map { UInt8(truncatingIfNeeded: $0 &+ inputs) }
                guard try client.perform(.write(sector: 2000, bytes)).isOK,
                    try client.perform(.read(sector: 2000, count: 512)).data == bytes
                else { stop("an ordinary front-end is not served") }
                try frontend.stop()
            }
        } catch { stop("an ordinary front-end is not served: \(error)") }
        countDescriptors()
    }

    /// Nothing that a front-end sent is still open once its connection has ended.
    private func countDescriptors() {
        // The last session ends by itself; the next one is only served after that.
        let probe = connect()
        _ = shutdown(probe.raw, Int32(SHUT_WR))
        var end = pollfd(fd: probe.raw, events: Int16(POLLIN), revents: 0)
        while poll(&end, 1, -1) < 0, errno == EINTR {}
        if descriptors == 0 { descriptors = openDescriptors() }
        // A worker may still be about to drop what it was told last.
        for _ in 0..<500 where openDescriptors() > descriptors + 2 { usleep(20_000) }
        let left = openDescriptors() - descriptors
        if left > 2 { stop("\(left) descriptors were left open") }
    }

    private func openDescriptors() -> Int {
        guard let folder = opendir("/proc/self/fd") else { stop("/proc is not there") }
        defer { closedir(folder) }
        var count = 0
        while readdir(folder) != nil { count += 1 }
        return count
    }
}
