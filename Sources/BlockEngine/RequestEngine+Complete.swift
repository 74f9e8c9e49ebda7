// Why this file exists: what the kernel says of a transfer of data: done, short, not now, or why not. Only a transfer that is
// whole is a success; the rest of a short one is asked for again.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// EAGAIN and short reads without progress are tried this often before they count as errors.
    static var retryLimit: UInt32 { 65536 }

    @inline(__always) func completePiece(_ piece: Int32, _ result: Int32) {
        let record = pieces + Int(piece)
        if record.pointee.kind == .plain, Int(result) == record.pointee.left {
            sawPages(record.pointee.file, record.pointee.host, record.pointee.left)
            release(piece, error: 0)
        } else {
            completeOther(piece, result)
        }
    }

    @inline(never) private func completeOther(_ piece: Int32, _ result: Int32) {
        switch pieces[Int(piece)].kind {
        case .merged: completeMerged(piece, result)
        case .allocation: completeAllocation(piece, result)
        case .bounce where result > 0: completeBounce(piece, Int(result))
        default: if result > 0 { completeShort(piece, Int(result)) } else { completeWithout(piece, result) }
        }
    }

    /// Some of a plain or vectored transfer was done; the rest is asked for again.
    private func completeShort(_ piece: Int32, _ result: Int) {
        let record = pieces + Int(piece)
        guard result < record.pointee.left else { return release(piece, error: 0) }
        // A direct read stops between blocks only where the file ends; then the rest of the range is not there. A write
        // is repeated from the last whole block on.
        let usable = result & ~Int(truncatingIfNeeded: files[Int(record.pointee.file)].offsetMask)
        guard usable == result || slots[Int(record.pointee.slot)].operation != .read else {
            return release(piece, error: EIO)
        }
        if usable == 0 { return completeWithout(piece, -EAGAIN) }
        if record.pointee.kind == .vector, record.pointee.list < 0 { return goOn(piece, after: usable) }
        record.pointee.at &+= usable
        record.pointee.host &+= UInt64(usable)
        record.pointee.left &-= usable
        record.pointee.retries = 0
        statistics.retries &+= 1
        send(piece)
    }

    /// The request's one transfer ended early; its rest has other ranges than the caller's list.
    private func goOn(_ piece: Int32, after done: Int) {
        let slot = pieces[Int(piece)].slot
        freePieces.give(piece)
        slots[Int(slot)].pieces &-= 1
        statistics.retries &+= 1
        beginWalk(slot, after: UInt64(truncatingIfNeeded: done))
    }

    /// Blocks went through a bounce buffer: a read's are copied once the range is complete.
    private func completeBounce(_ piece: Int32, _ result: Int) {
        let record = pieces + Int(piece)
        let mask = files[Int(record.pointee.file)].offsetMask
        let into = Int(truncatingIfNeeded: record.pointee.host & mask)
        let got = record.pointee.got &+ result
        if got >= into &+ record.pointee.left {
            guard slots[Int(record.pointee.slot)].operation == .read else { return finishBounce(piece, 0) }
            memory(of: record.pointee.slot).copy(
                bounces.buffer(record.pointee.bounce) + into, at: record.pointee.at, length: record.pointee.left)
            return finishBounce(piece, 0)
        }
        guard result & Int(truncatingIfNeeded: mask) == 0 else { return finishBounce(piece, EIO) }
        record.pointee.got = got
        record.pointee.retries = 0
        statistics.retries &+= 1
        send(piece)
    }

    private func finishBounce(_ piece: Int32, _ error: Int32) {
        bounces.give(pieces[Int(piece)].bounce)
        pieces[Int(piece)].bounce = none
        release(piece, error: error)
    }

    /// Nothing came: the file ended inside a data extent (an error, never zeros), or the system says why.
    private func completeWithout(_ piece: Int32, _ result: Int32) {
        let record = pieces + Int(piece)
        if result == -EAGAIN || result == -EINTR, record.pointee.retries < RequestEngine.retryLimit {
            record.pointee.retries &+= 1
            statistics.retries &+= 1
            send(piece)
            return
        }
        let error = result == 0 ? EIO : 0 &- result
        if record.pointee.kind == .bounce { finishBounce(piece, error) } else { release(piece, error: error) }
    }
}
