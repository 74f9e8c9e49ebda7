// Loop devices of other programs break: their file lies on FUSE and its server was killed. Then every question about the
// file behind the device is an error. Tests make one to claim that other devices are not affected.

import Foundation

/// A loop device whose file's server, QEMU's, is dead. Gone when dropped.
public final class DeadLoop {
    public let number: Int32
    /// The file behind it, as the kernel names it.
    public let file: String
    private let folder: String

    public static let isPossible = Tools.canLoop && Tools.have("qemu-storage-daemon")
    public static let reason = "\(Tools.loopReason), qemu-storage-daemon with FUSE"

    public init() throws {
        folder = try Scratch.newFolder("dead-loop")
        file = folder + "/disk"
        let script = """
            set -e; truncate -s 1M data; touch disk
            qemu-storage-daemon --blockdev driver=file,filename=data,node-name=n --daemonize --pidfile pid \
                --export type=fuse,id=e,node-name=n,mountpoint=\(file)
            losetup -f --show -r disk; kill -9 $(cat pid)
            """
        let outcome = try Command(["sh", "-c", script], in: folder).succeed()
        let device = outcome.output.split(separator: "\n").last ?? ""
        guard let number = Int32(device.drop { !$0.isNumber }) else { throw CommandFailure(outcome: outcome) }
        self.number = number
        // QEMU's answers are good for a second; the kernel forgets them then.
        usleep(1_200_000)
    }

    deinit {
        _ = try? Command(["sh", "-c", "losetup -d /dev/loop\(number); umount -l disk"], in: folder).run()
        try? FileManager.default.removeItem(atPath: folder)
    }
}
