// A real QEMU does not misbehave on demand. This one answers what the test tells it to.

import Foundation
import Synchronization
import TestKit

/// A listener on a socket that lives one connection long, on a thread of its own.
final class FakeQEMU: Sendable {
    let path: String
    private let listener: Int32
    private let heard = Mutex<[String]>([])

    static let greeting =
        #"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""},"capabilities":["oob"]}}"#

    /// `answer` gets each command's name and id and returns the lines to send; nil closes the connection.
    init(greeting: String? = greeting, answer: @escaping @Sendable (_ command: String, _ id: Int64) -> [String]?) throws
    {
        path = try Scratch.newFolder("qmp") + "/qmp"
        listener = try UnixSocket.listen(path)
        let thread = Thread { [self] in
            let client = accept(listener, nil, nil)
            defer { close(client) }
            if let greeting { send(client, [greeting]) }
            var pending = ""
            while let line = FakeQEMU.line(client, &pending) {
                guard let message = try? JSONValue(parsing: line), let command = message["execute"]?.string else {
                    return
                }
                heard.withLock { $0.append(command) }
                guard let lines = answer(command, message["id"]?.integer ?? -1) else { return }
                send(client, lines)
            }
        }
        thread.start()
    }

    deinit { close(listener) }

    /// The commands that came so far.
    var commands: [String] { heard.withLock { $0 } }

    static func result(_ id: Int64, _ value: String = "{}") -> String { "{\"return\":\(value),\"id\":\(id)}" }
    static func error(_ id: Int64, _ words: String, class kind: String = "GenericError") -> String {
        "{\"error\":{\"class\":\"\(kind)\",\"desc\":\"\(words)\"},\"id\":\(id)}"
    }

    private func send(_ client: Int32, _ lines: [String]) {
        for line in lines {
            let text = line + "\r\n"
            _ = Foundation.send(client, text, text.utf8.count, Int32(MSG_NOSIGNAL))
        }
    }

    private static func line(_ client: Int32, _ pending: inout String) -> String? {
        while true {
            if let end = pending.firstIndex(of: "\n") {
                let line = String(pending[..<end])
                pending = String(pending[pending.index(after: end)...])
                return line
            }
            var piece = [UInt8](repeating: 0, count: 4096)
            let count = recv(client, &piece, piece.count, 0)
            guard count > 0 else { return nil }
            pending += String(decoding: piece[..<count], as: UTF8.self)
        }
    }
}
