// A file system in memory that is soon full, without a mount that anybody else sees.
import Glibc
import Testing

/// A tmpfs of a process's own mount namespace, reached through that process.
final class SmallTmpfs {
    let path: String
    private let process: pid_t

    private init(_ process: pid_t) {
        self.process = process
        path = "/proc/\(process)/root/mnt"
    }

    deinit { if process > 1 { kill(process, SIGKILL) } }

    /// Skips the test where mounting is not permitted.
    static func make(megabytes: Int) throws -> SmallTmpfs {
        let images = try Images()
        let script = "mount -t tmpfs -o size=\(megabytes)M none /mnt && : >ready && exec sleep 600"
        try images.run("unshare -m --propagation private sh -c '\(script)' & echo $! >pid")
        let text = String(decoding: try images.bytes("pid"), as: UTF8.self)
        let place = SmallTmpfs(pid_t(text.split(separator: "\n").first ?? "") ?? 0)
        for _ in 0..<200 where access(images.path("ready"), F_OK) != 0 { usleep(10_000) }
        guard access(images.path("ready"), F_OK) == 0 else {
            try Test.cancel("mounting a tmpfs is not permitted here")
        }
        return place
    }
}
