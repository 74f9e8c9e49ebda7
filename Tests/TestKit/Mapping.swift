// A mapped image is state of the whole machine. A mapping knows how to look at itself from outside (mounts, loop
// devices, processes), so that a test can claim that nothing stays behind; and it goes with its test.

public import Foundation
import Synchronization

/// An image mapped through `qblk map --via loop`.
public final class Mapping: Sendable {
    public let name: String
    public let image: String
    /// What `map` printed.
    public let device: String

    private static let counter = Atomic<Int>(0)

    /// A map name that nothing else uses; of fixed length, so that none is the beginning of another.
    public static func freshName() -> String {
        String(format: "e2e-%d-%04d", getpid(), counter.add(1, ordering: .relaxed).newValue)
    }

    /// Maps through loop, read-only unless told otherwise; throws what `map` said when it fails.
    public init(
        _ image: String, name: String = freshName(), readOnly: Bool = true, options: [String] = [],
        in folder: String? = nil
    ) throws {
        self.name = name
        self.image = image
        let arguments = ["map", image, "--via", "loop", "--name", name] + (readOnly ? ["-r"] : []) + options
        let outcome = try Command([Tools.qblk] + arguments, in: folder, deadline: 60).run()
        guard outcome.exit == 0 else { throw CommandFailure(outcome: outcome) }
        device = outcome.output.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// A map that a test has made by itself, in words that are no text.
    public init(made name: String, device: String) {
        self.name = name
        // Nothing else is known by it.
        image = name
        self.device = device
    }

    deinit {
        // A test that failed half-way must not spoil the next; one that unmapped has made this a no-op.
        if !leftovers().isEmpty { _ = try? qblk("unmap", name, deadline: 60) }
    }

    public func unmap(_ options: String...) throws -> Outcome {
        try qblk(["unmap", name] + options, deadline: 60)
    }

    /// The map's entry in `qblk list --json`.
    public func listed() throws -> JSONValue? {
        let outcome = try qblk("list", "--json")
        guard outcome.exit == 0 else { throw CommandFailure(outcome: outcome) }
        return try outcome.json().array?.first { $0["name"]?.string == name }
    }

    /// The process that carries the requests, by `list --json`.
    public func serverPID() throws -> pid_t? {
        let entry = try listed()
        return (entry?.at("server-pid") ?? entry?.at("pid") ?? entry?.at("server.pid"))?.integer.map { pid_t($0) }
    }

    /// The server that follows those that are dead; nil when none comes.
    public func nextServerPID(after dead: Set<pid_t>, seconds: Double = 30) throws -> pid_t? {
        let end = now() + seconds
        while now() < end {
            if let server = try serverPID(), !dead.contains(server) { return server }
            usleep(20_000)
        }
        return nil
    }

    /// Kills every process that belongs to this map.
    public func killEverything() throws {
        var targets = Set(processes())
        if let server = try serverPID() { targets.insert(server) }
        for pid in targets { kill(pid, SIGKILL) }
    }

    /// Everything on this machine that belongs to this map, each named in a line. Empty after an unmap.
    public func leftovers() -> [String] {
        let mounts = lines(of: "/proc/self/mountinfo").filter { $0.contains(name) }.map { "mount: \($0)" }
        let loop = "/sys/block/\(device.split(separator: "/").last ?? "none")/loop/backing_file"
        let backing = lines(of: loop).filter { $0.contains(name) || $0.contains(image) }.map {
            "loop: \(device) on \($0)"
        }
        return mounts + backing + processes().map { "process: \($0) \(commandLine(of: "\($0)"))" }
    }

    /// Waits a little for things that end on their own.
    public func leftoversAfterWaiting(seconds: Double = 30) -> [String] {
        let end = now() + seconds
        while !leftovers().isEmpty, now() < end { usleep(20_000) }
        return leftovers()
    }

    /// Processes of the program under test whose command line names this map or its image.
    private func processes() -> [pid_t] {
        let all = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return all.compactMap { pid_t($0) }.filter { pid in
            let program = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(pid)/exe")) ?? ""
            let line = commandLine(of: "\(pid)")
            return program.contains("qblk") && pid != getpid() && (line.contains(name) || line.contains(image))
        }
    }
}

private func lines(of path: String) -> [Substring] {
    String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self).split(separator: "\n")
}

private func commandLine(of process: String) -> String {
    let bytes = FileManager.default.contents(atPath: "/proc/\(process)/cmdline") ?? Data()
    return String(decoding: bytes.map { $0 == 0 ? 32 : $0 }, as: UTF8.self)
}
