// The guest's disks are served by the program under test, or, to see that the tests themselves are right, by QEMU's
// own vhost-user-blk server, which they must accept as well.

import Foundation
import Synchronization

/// A vhost-user-blk server on a socket.
public final class DiskServer: Sendable {
    public let socket: String
    private let words: [String]
    private let running = Mutex<RunningCommand?>(nil)

    /// QBLK_TEST_BACKEND=qsd: the tests run against qemu-storage-daemon.
    public static let isPeer = ProcessInfo.processInfo.environment["QBLK_TEST_BACKEND"] == "qsd"

    /// Why there is no server; nil where there is.
    public static let missing: String? = {
        if isPeer { return Tools.have("qemu-storage-daemon") ? nil : "needs qemu-storage-daemon" }
        guard Tools.haveQblk else { return Tools.qblkReason }
        let help = try? qblk("serve", "--help")
        return help?.exit == 0 && help?.output.contains("socket-path") == true ? nil : "this qblk has no `serve`"
    }()

    public init(
        _ image: String, format: String, socket: String, readOnly: Bool = false, queues: Int = 1,
        options: [String] = []
    ) throws {
        self.socket = socket
        if DiskServer.isPeer {
            let writable = readOnly ? "off" : "on"
            words = [
                "qemu-storage-daemon", "--blockdev",
                "driver=file,node-name=file,filename=\(image),discard=unmap,read-only=\(readOnly ? "on" : "off")",
                "--blockdev", "driver=\(format),node-name=disk,file=file,read-only=\(readOnly ? "on" : "off")",
                "--export",
                "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=\(socket),"
                    + "writable=\(writable),num-queues=\(queues)",
            ]
        } else {
            words =
                [Tools.qblk, "serve", image, "--socket-path", socket, "-f", format, "--queues", "\(queues)"]
                + (readOnly ? ["-r"] : []) + options
        }
        try start()
    }

    deinit { kill() }

    /// Starts it (again) and waits until it listens.
    public func start() throws {
        // A killed server leaves its socket; whether the new one takes the name over is its own business, except that
        // QEMU's does not.
        if DiskServer.isPeer { unlink(socket) }
        var process = try Command(words).spawn()
        let end = now() + 20
        while !DiskServer.listens(socket) {
            guard process.isRunning, now() < end else { throw CommandFailure(outcome: process.end()) }
            usleep(20_000)
        }
        running.withLock { $0 = process }
    }

    /// Whether a process listens, found without connecting: a connection would take a place.
    static func listens(_ socket: String) -> Bool {
        let table = String(decoding: FileManager.default.contents(atPath: "/proc/net/unix") ?? Data(), as: UTF8.self)
        // Flags 00010000: it accepts connections.
        return table.split(separator: "\n").contains { $0.hasSuffix(" \(socket)") && $0.contains(" 00010000 ") }
    }

    /// kill -9.
    public func kill() {
        running.withLock { process in
            process?.end()
            process = nil
        }
    }

    /// Asks it to end (SIGTERM) and tells how it did.
    public func stop(deadline: Double = 20) -> Outcome? {
        running.withLock { process in
            guard var ending = process else { return nil }
            process = nil
            Foundation.kill(ending.pid, SIGTERM)
            return ending.wait(deadline: ending.age + deadline)
        }
    }
}
