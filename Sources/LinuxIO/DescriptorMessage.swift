// Why this file exists: a supervisor hands open devices to the server it starts again. Descriptors travel over Unix
// sockets; whoever receives more than was agreed must not keep them.
import CQblk
import Glibc
public import SystemPackage

/// Bytes with open descriptors, over a Unix socket.
public enum DescriptorMessage {
    /// The most descriptors in one message.
    public static let mostDescriptors = 16

    /// Sends `bytes` (at least one) and copies of the descriptors; the sender keeps its own.
    public static func send(_ bytes: [UInt8], descriptors: [Int32], over socket: Int32) throws(Errno) {
        let sent = try retrying { qb_send_fds(socket, bytes, bytes.count, descriptors, Int32(descriptors.count)) }
        if sent != bytes.count { throw .ioError }
    }

    /// One message of at most `limit` bytes; no bytes when the other side has gone. Whoever gets the descriptors closes
    /// them (`OwnedFD(taking:)`). More than `descriptors` of them is an error, and all are closed.
    public static func receive(
        limit: Int, descriptors: Int, over socket: Int32
    ) throws(Errno) -> (bytes: [UInt8], descriptors: [Int32]) {
        var bytes = [UInt8](repeating: 0, count: limit)
        let room = min(descriptors, mostDescriptors)
        var fds = [Int32](repeating: -1, count: max(room, 1))
        var count = Int32(room)
        let got = try retrying {
            count = Int32(room)
            return qb_recv_fds(socket, &bytes, limit, &fds, &count)
        }
        return (Array(bytes[..<got]), Array(fds[..<Int(count)]))
    }
}
