// A supervisor hands open devices to the server it starts again. Descriptors travel over Unix sockets; a receiver of
// more than was agreed must not keep them.
import CQblk
import Glibc
public import SystemPackage

/// Bytes with open descriptors, over a Unix socket.
public enum DescriptorMessage {
    /// The most descriptors in one message.
    public static let mostDescriptors = 16

    /// Sends `bytes` (at least one) and copies of the descriptors; the sender keeps its own.
    public static func send(_ bytes: [UInt8], descriptors: [Int32], over socket: Int32) throws(Errno) {
        let sent = try retrying {
            unsafe qb_send_fds(socket, bytes, bytes.count, descriptors, Int32(descriptors.count))
        }
        if sent != bytes.count { throw .ioError }
    }

    /// One message of at most `limit` bytes; no bytes when the other side has gone. The caller closes the descriptors
    /// them (`OwnedFD(taking:)`). More than `descriptors` of them is an error, and all are closed. `waits`: for the first
    /// byte; else there is EAGAIN when nothing is there.
    public static func receive(
        limit: Int, descriptors: Int, over socket: Int32, waits: Bool = true
    ) throws(Errno) -> (bytes: [UInt8], descriptors: [Int32]) {
        let flags = waits ? 0 : Int32(MSG_DONTWAIT)
        let room = min(descriptors, mostDescriptors)
        var failure: Errno?
        var fds: [Int32] = []
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: limit) { memory, used in
            fds = unsafe [Int32](unsafeUninitializedCapacity: max(room, 1)) { places, came in
                var count = Int32(room)
                do throws(Errno) {
                    used = try retrying {
                        count = Int32(room)
                        return unsafe qb_recv_fds(socket, memory.baseAddress, limit, places.baseAddress, &count, flags)
                    }
                    came = Int(count)
                } catch { failure = error }
            }
        }
        if let failure { throw failure }
        return (bytes, fds)
    }
}
