// Asks a vhost-user server whether it answers, before QEMU connects to it: QEMU stops the whole VM while it waits for
// an answer. A server is ready when it answers with its features.
import QEMUMonitor
import SystemPackage
import VhostUserWire

/// A question to a vhost-user server, asked without a VM.
enum VhostUserProbe {
    /// Whether a vhost-user server answers on the socket within `milliseconds`.
    static func answers(_ socket: FilePath, milliseconds: Int64) -> Bool {
        let connection: LocalSocket
        do throws(LocalSocket.Refusal) { connection = try LocalSocket(socket) } catch { return false }
        let deadline = Deadline(in: milliseconds)
        let question = MessageHeader(.getFeatures, payloadBytes: 0)
        let expected = question.reply(payloadBytes: WireNumber.bytes)
        guard connection.send(question.encoded, before: deadline),
            let answer = connection.bytes(VhostUserLimits.headerBytes + WireNumber.bytes, before: deadline)
        else { return false }
        do throws(WireError) { return try MessageHeader(decoding: answer) == expected } catch { return false }
    }
}
