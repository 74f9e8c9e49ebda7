// What the kernel says of a transfer of data: done, short, not now, or why not. Only a transfer that is
// whole is a success; the rest of a short one is asked for again.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// EAGAIN and short reads without progress are tried this often before they count as errors.
    static var retryLimit: UInt32 { 65536 }

    @inline(__always) func completeTransfer(_ transfer: Int32, _ result: Int32) {
        let record = transfers + Int(transfer)
        if record.pointee.kind == .plain, Int(result) == record.pointee.left {
            sawPages(record.pointee.file, record.pointee.host, record.pointee.left)
            release(transfer, error: 0)
        } else {
            completeOther(transfer, result)
        }
    }

    @inline(never) private func completeOther(_ transfer: Int32, _ result: Int32) {
        switch transfers[Int(transfer)].kind {
        case .merged: completeMerged(transfer, result)
        case .allocation: completeAllocation(transfer, result)
        case .bounce where result > 0: completeBounce(transfer, Int(result))
        default: if result > 0 { completeShort(transfer, Int(result)) } else { completeWithout(transfer, result) }
        }
    }

    /// Some of a plain or vectored transfer was done; the rest is asked for again.
    private func completeShort(_ transfer: Int32, _ result: Int) {
        let record = transfers + Int(transfer)
        guard result < record.pointee.left else { return release(transfer, error: 0) }
        // A direct read stops between blocks only where the file ends; then the rest of the range is not there. A write
        // is repeated from the last whole block on.
        let usable = result & ~Int(truncatingIfNeeded: files[Int(record.pointee.file)].offsetMask)
        guard usable == result || requests[Int(record.pointee.request)].operation != .read else {
            return release(transfer, error: EIO)
        }
        if usable == 0 { return completeWithout(transfer, -EAGAIN) }
        if record.pointee.kind == .vector, record.pointee.list < 0 { return resubmitRemainder(transfer, after: usable) }
        record.pointee.at &+= usable
        record.pointee.host &+= UInt64(usable)
        record.pointee.left &-= usable
        record.pointee.retries = 0
        statistics.retries &+= 1
        send(transfer)
    }

    /// The request's one transfer ended early; its rest has other ranges than the caller's list.
    private func resubmitRemainder(_ transfer: Int32, after done: Int) {
        let request = transfers[Int(transfer)].request
        freeTransfers.give(transfer)
        requests[Int(request)].transfers &-= 1
        statistics.retries &+= 1
        beginAdvance(request, after: UInt64(truncatingIfNeeded: done))
    }

    /// Blocks went through a bounce buffer: a read's are copied once the range is complete.
    private func completeBounce(_ transfer: Int32, _ result: Int) {
        let record = transfers + Int(transfer)
        let mask = files[Int(record.pointee.file)].offsetMask
        let into = Int(truncatingIfNeeded: record.pointee.host & mask)
        let got = record.pointee.got &+ result
        if got >= into &+ record.pointee.left {
            guard requests[Int(record.pointee.request)].operation == .read else { return finishBounce(transfer, 0) }
            memory(of: record.pointee.request).copy(
                bounces.buffer(record.pointee.bounce) + into, at: record.pointee.at, length: record.pointee.left)
            return finishBounce(transfer, 0)
        }
        guard result & Int(truncatingIfNeeded: mask) == 0 else { return finishBounce(transfer, EIO) }
        record.pointee.got = got
        record.pointee.retries = 0
        statistics.retries &+= 1
        send(transfer)
    }

    private func finishBounce(_ transfer: Int32, _ error: Int32) {
        bounces.give(transfers[Int(transfer)].bounce)
        transfers[Int(transfer)].bounce = none
        release(transfer, error: error)
    }

    /// Nothing came: the file ended inside a data extent (an error, never zeros), or the system says why.
    private func completeWithout(_ transfer: Int32, _ result: Int32) {
        let record = transfers + Int(transfer)
        if result == -EAGAIN || result == -EINTR, record.pointee.retries < RequestEngine.retryLimit {
            record.pointee.retries &+= 1
            statistics.retries &+= 1
            send(transfer)
            return
        }
        let error = result == 0 ? EIO : 0 &- result
        if record.pointee.kind == .bounce { finishBounce(transfer, error) } else { release(transfer, error: error) }
    }
}
