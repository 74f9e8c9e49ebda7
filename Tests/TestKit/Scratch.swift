// Tests leave nothing behind. All files of a run lie in one folder under TMPDIR, which goes when the process ends; a
// test that needs a folder of its own gets one inside it.

import Foundation
import Synchronization

public enum Scratch {
    /// The folder of this run.
    public static let root: String = {
        let base = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
        // Resolved, so that the names programs print back are the names we gave them.
        let path = URL(filePath: base).resolvingSymlinksInPath().path + "/qblk-e2e-\(getpid())"
        mkdir(path, 0o700)
        atexit { try? FileManager.default.removeItem(atPath: Scratch.root) }
        return path
    }()

    private static let counter = Atomic<Int>(0)

    /// A new empty folder, kept until the run ends.
    public static func newFolder(_ name: String) throws -> String {
        let path = root + "/\(name)-\(counter.add(1, ordering: .relaxed).newValue)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        return path
    }

    /// A new empty file, kept until the run ends.
    public static func newFile(_ name: String) throws -> String {
        let path = root + "/\(counter.add(1, ordering: .relaxed).newValue).\(name)"
        let descriptor = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
        close(descriptor)
        return path
    }

    /// Runs `body` with a folder that is removed afterwards.
    public static func withFolder<R>(_ name: String = "test", _ body: (String) throws -> R) throws -> R {
        let path = try newFolder(name)
        defer { try? FileManager.default.removeItem(atPath: path) }
        return try body(path)
    }
}

/// The size of a file in bytes.
public func fileSize(_ path: String) throws -> Int {
    var status = stat()
    guard stat(path, &status) == 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
    return Int(status.st_size)
}
