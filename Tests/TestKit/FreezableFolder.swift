// A write that takes as long as a test wants it to: a file system that is frozen lets no write pass before it is thawed,
// and nothing is lost meanwhile.

import Foundation
import Synchronization

/// An ext4 file system of its own in a file, mounted, which can be frozen. Thawed and unmounted with its last reference.
public final class FreezableFolder: Sendable {
    /// Where it is mounted.
    public let path: String
    private let isFrozen = Mutex(false)

    /// Why there can be none; nil where there can.
    public static let missing: String? = {
        let tools = ["mke2fs", "fsfreeze", "mount", "umount"].filter { !Tools.have($0) }
        if !tools.isEmpty { return "needs \(tools)" }
        guard geteuid() == 0 else { return "needs root" }
        do {
            return try Scratch.withFolder { folder in
                _ = try FreezableFolder(megabytes: 8, in: folder)
                return nil
            }
        } catch { return "needs an ext4 file system that can be mounted" }
    }()

    /// Makes one of `megabytes` MiB in `folder`.
    public init(megabytes: Int, in folder: String) throws {
        path = "\(folder)/mnt"
        let file = "\(folder)/ext4"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        try Command(["mke2fs", "-q", "-t", "ext4", file, "\(megabytes)M"]).succeed()
        try Command(["mount", "-t", "ext4", "-o", "loop", file, path]).succeed()
    }

    deinit {
        thaw()
        if (try? Command(["umount", path]).run())?.exit != 0 { _ = try? Command(["umount", "-l", path]).run() }
    }

    /// From here on every write waits.
    public func freeze() throws {
        try isFrozen.withLock { isFrozen in
            try Command(["fsfreeze", "-f", path]).succeed()
            isFrozen = true
        }
    }

    /// The writes that wait go on.
    public func thaw() {
        isFrozen.withLock { isFrozen in
            guard isFrozen else { return }
            isFrozen = (try? Command(["fsfreeze", "-u", path]).run())?.exit != 0
        }
    }
}
