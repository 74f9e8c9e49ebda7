// QEMU's storage daemon is the back-end that qblk's must answer like, and the one that everything on the driver's
// side is tried against.

import Foundation

/// A qemu-storage-daemon that exports one image by vhost-user-blk. Killed when dropped.
public final class StorageDaemon {
    public let socket: String
    public var pid: Int32 { running.pid }
    private var running: RunningCommand
    private let folder: String

    public static let isThere = Tools.have("qemu-storage-daemon")
    public static let reason = "needs qemu-storage-daemon"

    public init(_ image: String, format: String = "raw", queues: Int = 1, writable: Bool = true) throws {
        folder = try Scratch.newFolder("qsd")
        socket = folder + "/s"
        running = try Command([
            "qemu-storage-daemon", "--blockdev", "driver=file,node-name=f,filename=\(image)",
            "--blockdev", "driver=\(format),node-name=d,file=f", "--export",
            "type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=\(socket),num-queues=\(queues),"
                + "writable=\(writable ? "on" : "off")",
        ]).spawn()
        let end = Date(timeIntervalSinceNow: 20)
        // The file is there before a process listens.
        while !DiskServer.listens(socket) {
            guard Date() < end, kill(running.pid, 0) == 0 else {
                throw CommandFailure(outcome: running.wait(deadline: 0))
            }
            usleep(5000)
        }
    }

    deinit {
        running.end()
        try? FileManager.default.removeItem(atPath: folder)
    }
}
