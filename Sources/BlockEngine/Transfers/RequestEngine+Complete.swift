// What the kernel says of a transfer of data: done, short, not now, or why not. Only a transfer that is
// whole is a success; the rest of a short one is asked for again.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// EAGAIN and short reads without progress are tried this often before they count as errors.
    static var retryLimit: UInt32 { 65536 }

    @inline(__always) func completeTransfer(_ transfer: TransferIndex, _ result: Int32) {
        if transfers[transfer].kind == .plain, Int(result) == transfers[transfer].left {
            pageCache.sawPages(transfers[transfer].file, transfers[transfer].host, transfers[transfer].left)
            release(transfer, error: 0)
        } else {
            completeOther(transfer, result)
        }
    }

    @inline(never) private func completeOther(_ transfer: TransferIndex, _ result: Int32) {
        switch transfers[transfer].kind {
        case .merged: completeMerged(transfer, result)
        case .allocation: completeAllocation(transfer, result)
        case .bounce where result > 0: completeBounce(transfer, Int(result))
        default: if result > 0 { completeShort(transfer, Int(result)) } else { completeWithout(transfer, result) }
        }
    }

    /// Some of a plain or vectored transfer was done; the rest is asked for again.
    private func completeShort(_ transfer: TransferIndex, _ result: Int) {
        guard result < transfers[transfer].left else { return release(transfer, error: 0) }
        // A direct read stops between blocks only where the file ends; then the rest of the range is not there. A write
        // is repeated from the last whole block on.
        let usable = result & ~Int(truncatingIfNeeded: files[transfers[transfer].file].offsetMask)
        guard usable == result || requests[transfers[transfer].request].operation != .read else {
            return release(transfer, error: EIO)
        }
        if usable == 0 { return completeWithout(transfer, -EAGAIN) }
        if transfers[transfer].kind == .vector, !transfers[transfer].list.exists {
            return resubmitRemainder(transfer, after: usable)
        }
        transfers[transfer].at &+= usable
        transfers[transfer].host &+= UInt64(usable)
        transfers[transfer].left &-= usable
        transfers[transfer].retries = 0
        counters.retries &+= 1
        send(transfer)
    }

    /// The request's one transfer ended early; its rest has other ranges than the caller's list.
    private func resubmitRemainder(_ transfer: TransferIndex, after done: Int) {
        let request = transfers[transfer].request
        freeTransfers.give(transfer)
        requests[request].transfers &-= 1
        counters.retries &+= 1
        beginAdvance(request, after: UInt64(truncatingIfNeeded: done))
    }

    /// Blocks went through a bounce buffer: a read's are copied once the range is complete.
    private func completeBounce(_ transfer: TransferIndex, _ result: Int) {
        let mask = files[transfers[transfer].file].offsetMask
        let into = Int(truncatingIfNeeded: transfers[transfer].host & mask)
        let got = transfers[transfer].got &+ result
        if got >= into &+ transfers[transfer].left {
            guard requests[transfers[transfer].request].operation == .read else { return finishBounce(transfer, 0) }
            memory(of: transfers[transfer].request).copy(
                bounces.buffer(transfers[transfer].bounce) + into, at: transfers[transfer].at,
                length: transfers[transfer].left)
            return finishBounce(transfer, 0)
        }
        guard result & Int(truncatingIfNeeded: mask) == 0 else { return finishBounce(transfer, EIO) }
        transfers[transfer].got = got
        transfers[transfer].retries = 0
        counters.retries &+= 1
        send(transfer)
    }

    private func finishBounce(_ transfer: TransferIndex, _ error: Int32) {
        bounces.give(transfers[transfer].bounce)
        transfers[transfer].bounce = .none
        release(transfer, error: error)
    }

    /// Nothing came: the file ended inside a data extent (an error, never zeros), or the system says why.
    private func completeWithout(_ transfer: TransferIndex, _ result: Int32) {
        if result == -EAGAIN || result == -EINTR, transfers[transfer].retries < RequestEngine.retryLimit {
            transfers[transfer].retries &+= 1
            counters.retries &+= 1
            send(transfer)
            return
        }
        let error = result == 0 ? EIO : 0 &- result
        if transfers[transfer].kind == .bounce {
            finishBounce(transfer, error)
        } else {
            release(transfer, error: error)
        }
    }
}
