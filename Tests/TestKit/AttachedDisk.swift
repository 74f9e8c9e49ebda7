// A disk in a VM is processes and files on the host. A test looks at them from outside, and what a failed test leaves
// must not spoil the next.

import Foundation

/// A registry of its own for attach, detach and list, in a test's folder.
public struct AttachedDisks: Sendable {
    public let folder: String
    private var registry: String { "\(folder)/run" }

    public init(_ folder: String) { self.folder = folder }

    public func qblk(_ arguments: String..., deadline: Double = 90) throws -> Outcome {
        try command(arguments, deadline: deadline).run()
    }

    public func command(_ arguments: [String], deadline: Double = 90) -> Command {
        var command = Command([Tools.qblk] + arguments, in: folder, deadline: deadline)
        command.environment = ["QBLK_RUN_DIR": registry]
        return command
    }

    /// `qblk list --json`, by the name in it.
    public func listed() throws -> [String: JSONValue] {
        let entries = try qblk("list", "--json").json().array ?? []
        return Dictionary(entries.map { ($0["name"]?.string ?? "", $0) }) { first, _ in first }
    }

    /// Processes and folders that belong to disks of this builder, a line each.
    public func leftovers() -> [String] {
        let folders = (try? FileManager.default.contentsOfDirectory(atPath: "\(registry)/.attached")) ?? []
        return folders.filter { !$0.hasPrefix(".") }.map { "folder: \($0)" } + processes().map { "process: \($0.1)" }
    }

    public func leftoversAfterWaiting(seconds: Double = 10) -> [String] {
        let end = now() + seconds
        while !leftovers().isEmpty, now() < end { usleep(20_000) }
        return leftovers()
    }

    private func processes() -> [(pid_t, String)] {
        let all = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return all.compactMap { pid_t($0) }.compactMap { pid in
            let bytes = FileManager.default.contents(atPath: "/proc/\(pid)/cmdline") ?? Data()
            let line = String(decoding: bytes.map { $0 == 0 ? 32 : $0 }, as: UTF8.self)
            // JSON writes slashes with a backslash.
            let isOurs = line.hasPrefix("qblk ") && line.filter { $0 != "\\" }.contains("\(registry)/")
            return isOurs ? (pid, line) : nil
        }
    }

    /// Ends whatever is left.
    public func clear() {
        for (pid, _) in processes() { kill(pid, SIGKILL) }
    }
}
