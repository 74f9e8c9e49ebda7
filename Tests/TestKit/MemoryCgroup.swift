// A small machine for some processes only: a control group that limits their memory.

import Foundation
import Synchronization

/// A memory control group, of version 1 or 2. Gone with its last reference.
public final class MemoryCgroup: Sendable {
    private let path: String
    private static let counter = Atomic<Int>(0)

    /// Why there can be none; nil where there can.
    public static let missing: String? = {
        guard geteuid() == 0 else { return "needs root" }
        return (try? MemoryCgroup(megabytes: 64)) == nil ? "needs a memory control group of its own" : nil
    }()

    /// Makes one for `megabytes` MiB.
    public init(megabytes: Int) throws {
        let root = "/sys/fs/cgroup"
        let first = FileManager.default.fileExists(atPath: "\(root)/memory/memory.limit_in_bytes")
        let name = "qblk-test-\(getpid())-\(MemoryCgroup.counter.add(1, ordering: .relaxed).newValue)"
        path = first ? "\(root)/memory/\(name)" : "\(root)/\(name)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        do {
            let limit = URL(filePath: "\(path)/\(first ? "memory.limit_in_bytes" : "memory.max")")
            // Only written to: a limit that is not there must not become a file.
            let handle = try FileHandle(forWritingTo: limit)
            try handle.write(contentsOf: Data("\(megabytes << 20)".utf8))
            try handle.close()
        } catch {
            rmdir(path)
            throw error
        }
    }

    deinit {
        // Processes may take a moment to end.
        for _ in 0..<100 where rmdir(path) != 0 { usleep(20_000) }
    }

    /// The file that takes the number of a process which joins.
    public var processes: String { "\(path)/cgroup.procs" }
}
