// Why this file exists: plain data. An extent becomes one read straight into the caller's memory wherever alignment
// allows it, and reads through aligned buffers where it does not. Nothing here looks at formats.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// The kernel moves less than 2 GiB a read; a round number below keeps the rest aligned.
    static var largestRead: Int { 1 << 30 }

    /// Sends one read straight into the caller's memory at byte `at` of the request, if alignment allows. False:
    /// nothing was done.
    @inline(__always) func sendStraight(
        _ fileIndex: UInt16, _ host: UInt64, into base: UnsafeMutableRawPointer, at: Int, _ length: Int, _ slot: Int32
    ) -> Bool {
        let file = files + Int(fileIndex)
        guard Int(fileIndex) < fileCount, length <= RequestEngine.largestRead,
            UInt(bitPattern: base + at) & file.pointee.memoryMask == 0,
            (host | UInt64(truncatingIfNeeded: length)) & file.pointee.offsetMask == 0
        else { return false }
        let piece = takePiece(for: slot)
        guard piece >= 0 else { return false }
        fill(piece, .plain, fileIndex, at: at, length: length, host: host)
        let sent = ring.prepareRead(
            fd: file.pointee.data, buffer: base + at, count: UInt32(truncatingIfNeeded: length), offset: host,
            userData: Tag.make(Tag.piece, piece))
        if !sent { deferred.push(Tag.make(Tag.piece, piece)) }
        return true
    }

    /// Reads for a data extent at the slot's cursor. False: the slot is parked with its cursor at what is not issued.
    func issueData(_ extent: Extent, _ slot: Int32) -> Bool {
        guard Int(extent.file) < fileCount else {
            fail(slot, EIO)
            return true
        }
        let record = slots + Int(slot)
        let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
        let length = Int(truncatingIfNeeded: extent.length)
        if let base = record.pointee.base,
            sendStraight(extent.file, extent.host.bytes, into: base, at: at, length, slot)
        {
            record.pointee.cursor &+= extent.length
            return true
        }
        return issueSplit(extent, slot)
    }

    /// The same in as many reads as alignment and sizes ask for.
    private func issueSplit(_ extent: Extent, _ slot: Int32) -> Bool {
        let record = slots + Int(slot)
        let file = files[Int(extent.file)]
        let own = memory(of: slot)
        var host = extent.host.bytes
        var left = Int(truncatingIfNeeded: extent.length)
        while left > 0 {
            let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
            var length = min(left, RequestEngine.largestRead)
            var kind: Piece.Kind = own.base == nil ? .vector : .plain
            if file.offsetMask != 0 {
                let straight = length & ~Int(truncatingIfNeeded: file.offsetMask)
                let suits =
                    straight > 0 && host & file.offsetMask == 0
                    && own.isAligned(
                        at: at, length: straight, memoryMask: file.memoryMask, lengthMask: file.offsetMask)
                if suits {
                    length = straight
                } else {
                    kind = .bounce
                    length = bounceLength(own, at: at, host: host, left: left, file)
                }
            }
            guard bounces.available > 0 || kind != .bounce else { return park(slot) }
            let piece = takePiece(for: slot)
            guard piece >= 0 else { return park(slot) }
            fill(piece, kind, extent.file, at: at, length: length, host: host)
            if kind == .bounce {
                pieces[Int(piece)].bounce = bounces.take()
                pieces[Int(piece)].got = 0
                statistics.bounces &+= 1
            }
            record.pointee.cursor &+= UInt64(length)
            host &+= UInt64(length)
            left &-= length
            send(piece)
        }
        return true
    }

    /// How much of `left` bytes to read through one bounce buffer: up to the next place from where the rest can go
    /// straight into the caller's memory, if there is one; else as much as the buffer takes.
    private func bounceLength(_ own: CallerMemory, at: Int, host: UInt64, left: Int, _ file: FileSide) -> Int {
        let into = Int(truncatingIfNeeded: host & file.offsetMask)
        let most = min(left, BouncePool.bufferBytes &- into)
        let toAligned = into == 0 ? 0 : Int(truncatingIfNeeded: file.offsetMask) &+ 1 &- into
        guard let base = own.base, toAligned > 0, toAligned < left,
            UInt(bitPattern: base + at + toAligned) & file.memoryMask == 0
        else { return most }
        return min(most, toAligned)
    }

    @inline(__always) func fill(
        _ piece: Int32, _ kind: Piece.Kind, _ file: UInt16, at: Int, length: Int, host: UInt64
    ) {
        let record = pieces + Int(piece)
        record.pointee.kind = kind
        record.pointee.file = file
        record.pointee.at = at
        record.pointee.left = length
        record.pointee.host = host
        statistics.dataReads &+= 1
    }

    // MARK: sending

    /// Prepares the read of a piece, or queues it until the ring has room.
    func send(_ piece: Int32) {
        if !prepare(piece) { deferred.push(Tag.make(Tag.piece, piece)) }
    }

    func prepare(_ piece: Int32) -> Bool {
        let record = pieces + Int(piece)
        let file = files[Int(record.pointee.file)]
        if record.pointee.kind == .bounce {
            // Whole blocks around the range; what is in the buffer already is whole blocks too.
            let first = record.pointee.host & ~file.offsetMask
            let end = (record.pointee.host &+ UInt64(record.pointee.left) &+ file.offsetMask) & ~file.offsetMask
            let got = record.pointee.got
            return ring.prepareRead(
                fd: file.data, buffer: bounces.buffer(record.pointee.bounce) + got,
                count: UInt32(truncatingIfNeeded: Int(truncatingIfNeeded: end &- first) &- got),
                offset: first &+ UInt64(got), userData: Tag.make(Tag.piece, piece))
        }
        if let base = slots[Int(record.pointee.slot)].base {
            return ring.prepareRead(
                fd: file.data, buffer: base + record.pointee.at, count: UInt32(truncatingIfNeeded: record.pointee.left),
                offset: record.pointee.host, userData: Tag.make(Tag.piece, piece))
        }
        let list = pieceIovecs + Int(piece) &* maxIovecs
        let count = memory(of: record.pointee.slot).slice(
            at: record.pointee.at, length: record.pointee.left, into: list)
        return ring.prepareReadv(
            fd: file.data, iovecs: list, count: UInt32(truncatingIfNeeded: count), offset: record.pointee.host,
            userData: Tag.make(Tag.piece, piece))
    }

    // MARK: completions

    /// EAGAIN and short reads without progress are tried this often before they count as errors.
    static var retryLimit: UInt32 { 65536 }

    @inline(__always) func completePiece(_ piece: Int32, _ result: Int32) {
        let record = pieces + Int(piece)
        if record.pointee.kind == .plain, Int(result) == record.pointee.left {
            release(piece, error: 0)
        } else if record.pointee.kind == .bounce, result > 0 {
            completeBounce(piece, Int(result))
        } else if result > 0 {
            completeShort(piece, Int(result))
        } else {
            completeWithout(piece, result)
        }
    }

    /// Some of a plain or vectored read came; the rest is asked for again.
    private func completeShort(_ piece: Int32, _ result: Int) {
        let record = pieces + Int(piece)
        guard result < record.pointee.left else { return release(piece, error: 0) }
        // A direct read stops between blocks only where the file ends; then the rest of the range is not there.
        let usable = result & ~Int(truncatingIfNeeded: files[Int(record.pointee.file)].offsetMask)
        guard usable == result else { return release(piece, error: EIO) }
        record.pointee.at &+= usable
        record.pointee.host &+= UInt64(usable)
        record.pointee.left &-= usable
        record.pointee.retries = 0
        statistics.retries &+= 1
        send(piece)
    }

    /// Blocks came into a bounce buffer: copied once the range is complete.
    private func completeBounce(_ piece: Int32, _ result: Int) {
        let record = pieces + Int(piece)
        let mask = files[Int(record.pointee.file)].offsetMask
        let into = Int(truncatingIfNeeded: record.pointee.host & mask)
        let got = record.pointee.got &+ result
        if got >= into &+ record.pointee.left {
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
