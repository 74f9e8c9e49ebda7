// Asks a vhost-user server whether it answers, before QEMU connects to it: QEMU stops the whole VM while it waits for
// an answer. A server is ready when it answers with its features.
import QEMUMonitor
import SystemPackage

/// The question to a server.
enum VhostUserProbe {
    /// Whether a vhost-user server answers on the socket within `milliseconds`.
    static func answers(_ socket: FilePath, milliseconds: Int64) -> Bool {
        let connection: LocalSocket
        do throws(LocalSocket.Refusal) { connection = try LocalSocket(socket) } catch { return false }
        let deadline = Deadline(in: milliseconds)
        // VHOST_USER_GET_FEATURES (1), version 1, no payload; the answer has the same number, flag 4, and 8 bytes.
        guard connection.send([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], before: deadline),
            let answer = connection.bytes(20, before: deadline)
        else { return false }
        return Array(answer[..<12]) == [1, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]
    }
}
