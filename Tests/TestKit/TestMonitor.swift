// QEMU is asked what it has, by means of our own that share nothing with the program under test.

import Foundation

/// A connection to a QMP socket.
public final class TestMonitor: Sendable {
    private let socket: UnixSocket

    public init(_ path: String, deadline: Double = 20) throws {
        socket = try UnixSocket(path, deadline: deadline)
        _ = try socket.line(deadline: deadline)
        try execute("qmp_capabilities")
    }

    /// Runs a command; its result, or its error's words thrown. `arguments` are JSON.
    @discardableResult public func execute(_ command: String, _ arguments: String = "{}") throws -> JSONValue {
        try socket.send("{\"execute\":\"\(command)\",\"arguments\":\(arguments)}\n")
        while true {
            let answer = try JSONValue(parsing: try socket.line())
            if answer["event"] != nil { continue }
            if let error = answer["error"] { throw TestFailure("\(command): \(error)") }
            return answer["return"] ?? .null
        }
    }

    /// A property of an object in QEMU.
    public func property(_ name: String, of path: String) throws -> JSONValue {
        try execute("qom-get", "{\"path\":\"\(path)\",\"property\":\"\(name)\"}")
    }
}
