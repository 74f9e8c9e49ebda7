// A running VM is changed through QMP: greeting, negotiation, commands, answers, and events in between. This is that
// conversation and nothing more; what to say is the business of others.
public import DiskTypes
import FoundationEssentials
import LinuxIO
public import SystemPackage

/// A conversation with one QEMU. It talks to one client at a time: keep it short.
public final class QEMUMonitor {
    /// The socket's path, for messages.
    public let path: FilePath
    /// Who made the socket: QEMU, or who started it and gave it the socket.
    public let peer: LocalSocket.Peer?
    /// Of QEMU: 10.0 is (10, 0).
    public private(set) var version = (major: 0, minor: 0)
    private let socket: LocalSocket
    private var count: Int64 = 0
    private var events: [Event] = []

    /// What QEMU says without being asked (QMP `event`).
    public struct Event: Sendable {
        /// QEMU's name for it, as DEVICE_DELETED.
        public let name: String
        /// Its `data`; null where the event has none.
        public let data: JSONValue
    }

    /// Milliseconds to wait for the greeting, and for a command. A VM under load may take seconds.
    public static let greetingTimeout: Int64 = 5_000
    /// Milliseconds to wait for the answer to a command.
    public static let commandTimeout: Int64 = 30_000

    /// No process listens on the socket: the VM has gone, or was never there.
    public static func isGone(_ path: FilePath) -> Bool {
        do throws(LocalSocket.Refusal) { _ = try LocalSocket(path) } catch { return error == .noListener }
        return false
    }

    /// Connects and negotiates. `.notFound` where no process listens, `.locked` where another program has the monitor,
    /// `.system` where it is no monitor. `timeout`: milliseconds for the greeting.
    public init(_ path: FilePath, timeout: Int64 = greetingTimeout) throws(ImageError) {
        self.path = path
        do throws(LocalSocket.Refusal) { socket = try LocalSocket(path) } catch {
            switch error {
            case .noListener:
                throw ImageError(
                    .notFound, "no QEMU listens there",
                    advice: "start the VM with -qmp unix:\(path),server=on,wait=off",
                    path: path)
            case .busy: throw QEMUMonitor.isTaken(path)
            case .other(let error): throw error.named(path)
            }
        }
        peer = socket.peer
        try greet(Deadline(in: timeout))
        try execute("qmp_capabilities")
    }

    private func greet(_ deadline: Deadline) throws(ImageError) {
        guard case .bytes(let line) = socket.line(before: deadline) else {
            // Accepted by the kernel, but not by QEMU: it has a client already.
            throw deadline.isOver ? QEMUMonitor.isTaken(path) : noMonitor
        }
        guard let greeting = Self.parsed(line), let qmp = greeting["QMP"] else { throw noMonitor }
        let numbers = qmp["version"]?["qemu"]
        version = (Int(numbers?["major"]?.integer ?? 0), Int(numbers?["minor"]?.integer ?? 0))
    }

    /// The JSON value of a line; nil when it is none. QMP's shape depends on QEMU's version and on the machine: a value is
    /// read as it comes and asked for the few things that matter; what is not there is nil.
    private static func parsed(_ line: [UInt8]) -> JSONValue? {
        do { return try JSONDecoder().decode(JSONValue.self, from: Data(line)) } catch { return nil }
    }

    private static func isTaken(_ path: FilePath) -> ImageError {
        ImageError(
            .locked, "QEMU does not answer there: another program has this monitor, and it takes one at a time",
            advice: "end that program, or start the VM with a second -qmp", path: path)
    }

    private var noMonitor: ImageError {
        ImageError(.system, "what listens there is no QMP monitor", advice: "name the VM's -qmp socket", path: path)
    }

    // MARK: commands

    /// Runs a command to its end; its result. An error has QEMU's own words; `.notFound` when there is no such device.
    @discardableResult public func execute(
        _ command: String, _ arguments: [String: JSONValue] = [:], timeout: Int64 = commandTimeout
    ) throws(ImageError) -> JSONValue {
        let deadline = Deadline(in: timeout)
        count += 1
        let id = JSONValue.number(count)
        let message = JSONValue.members(["execute": .string(command), "arguments": .object(arguments), "id": id])
        guard socket.send(Array((message.line + "\n").utf8), before: deadline) else {
            throw lost(command)
        }
        while true {
            let answer = try next(deadline, during: command)
            if answer["event"] != nil {
                keep(answer)
            } else if answer["id"] == id || (answer["id"] == nil && answer["error"] != nil) {
                if let error = answer["error"] { throw refused(command, error) }
                return answer["return"] ?? .null
            }
            // Else it answers a command that we gave up waiting for.
        }
    }

    private func next(_ deadline: Deadline, during what: String) throws(ImageError) -> JSONValue {
        switch socket.line(before: deadline) {
        case .late:
            throw ImageError(
                .system, "QEMU does not answer to \(what)", advice: "look whether the VM hangs; then try again",
                path: path)
        case .gone: throw lost(what)
        case .bytes(let line):
            guard let value = Self.parsed(line) else { throw noMonitor }
            return value
        }
    }

    private func lost(_ what: String) -> ImageError {
        ImageError(.system, "QEMU closed the connection during \(what)", advice: "the VM may have ended", path: path)
    }

    private func refused(_ command: String, _ error: JSONValue) -> ImageError {
        let words = error["desc"]?.string ?? "no reason given"
        let kind: ImageError.Kind = error["class"]?.string == "DeviceNotFound" ? .notFound : .system
        return ImageError(kind, "QEMU refuses \(command): \(printable(words))", path: path)
    }

    // MARK: events

    private func keep(_ message: JSONValue) {
        guard let name = message["event"]?.string else { return }
        // A caller that waits for an event waits for a late one; a talkative VM must not fill the memory.
        if events.count >= 1000 { events.removeFirst() }
        events.append(Event(name: name, data: message["data"] ?? .null))
    }

    /// The first event that `wanted` takes, of those that came since the connection began and of those to come; nil when
    /// none comes within `timeout` milliseconds.
    public func event(
        timeout: Int64, _ wanted: (Event) -> Bool
    ) throws(ImageError) -> Event? {
        let deadline = Deadline(in: timeout)
        while true {
            if let index = events.firstIndex(where: wanted) { return events.remove(at: index) }
            switch socket.line(before: deadline) {
            case .late: return nil
            case .gone: throw lost("the wait for an event")
            case .bytes(let line):
                guard let value = Self.parsed(line) else { throw noMonitor }
                keep(value)
            }
        }
    }
}
