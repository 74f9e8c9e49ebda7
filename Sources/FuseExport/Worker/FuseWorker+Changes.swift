// How a worker serves requests that change the disk. Each keeps the buffer it came in until the engine is done with it:
// the data goes to the image from there, and the reply is written where the head was.
import BlockEngine
import CQblk
import DiskTypes
import Glibc

/// What is left of a request to make zeros: the kernel asks for up to 4 GiB at once, the engine takes less.
struct ZeroRest: BitwiseCopyable {
    var offset: UInt64 = 0
    var end: UInt64 = 0
    var mayUnmap = false

    /// Bytes; parts end at multiples of this, so that the cut is never inside a cluster.
    static let part: UInt64 = 1 << 30

    /// Removes the next part and returns it; nil when there is none.
    mutating func next() -> (offset: UInt64, length: UInt64)? {
        guard offset < end else { return nil }
        let (border, overflow) = (offset | (ZeroRest.part &- 1)).addingReportingOverflow(1)
        let stop = overflow ? end : min(border, end)
        defer { offset = stop }
        return (offset, stop &- offset)
    }
}

extension FuseWorker {
    /// Starts a change that came in request buffer `buffer`, or refuses it. True when the request keeps the buffer.
    @inline(__always) func begin(_ change: FuseChange, _ request: FuseRequest, in buffer: Int) -> Bool {
        let start = unsafe requests.bytes(buffer)
        let slot = UInt32(truncatingIfNeeded: pool.count &+ buffer)
        let unique = request.header.unique
        switch change {
        case .write(let offset, let length):
            _ = unsafe FuseReplies.written(start, unique: unique, bytes: length)
            let list = unsafe lists + buffer
            unsafe list.pointee = unsafe iovec(iov_base: start + FuseLimits.writeHead, iov_len: length)
            unsafe engine.submit(
                BlockRequest(
                    .write, slot: slot, guest: GuestOffset(offset), length: UInt64(truncatingIfNeeded: length),
                    iovecs: list, iovecCount: 1))
        case .flush:
            _ = unsafe FuseReplies.header(start, unique: unique)
            unsafe engine.submit(BlockRequest(.flush, slot: slot))
        case .zero(let offset, let length, let mayUnmap):
            _ = unsafe FuseReplies.header(start, unique: unique)
            unsafe rests[buffer] = ZeroRest(offset: offset, end: offset &+ length, mayUnmap: mayUnmap)
            _ = goesOn(buffer, after: 0)
        case .refused(let error):
            refuse(request, error)
            return false
        }
        return true
    }

    /// Submits the next part of a request to make zeros; false: there is none, or the request has failed.
    @inline(__always) func goesOn(_ buffer: Int, after error: Int32) -> Bool {
        let rest = unsafe rests + buffer
        if error != 0 { unsafe rest.pointee.end = 0 }
        guard let part = unsafe rest.pointee.next() else { return false }
        unsafe engine.submit(
            BlockRequest(
                .writeZeroes, slot: UInt32(truncatingIfNeeded: pool.count &+ buffer),
                guest: GuestOffset(part.offset), length: part.length, mayUnmap: rest.pointee.mayUnmap))
        return true
    }
}
