// Why this file exists: plain data. An extent becomes one transfer straight into or out of the caller's memory wherever
// alignment allows it, and transfers through aligned buffers where it does not. Nothing here looks at formats.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// The kernel moves less than 2 GiB at a time; a round number below keeps the rest aligned.
    static var largestRead: Int { 1 << 30 }

    /// Whether a transfer can go straight between the file and memory at `base`.
    @inline(__always) func isStraight(
        _ fileIndex: UInt16, _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int
    ) -> Bool {
        let file = files + Int(fileIndex)
        return Int(fileIndex) < fileCount && length <= RequestEngine.largestRead
            && UInt(bitPattern: base) & file.pointee.memoryMask == 0
            && (host | UInt64(truncatingIfNeeded: length)) & file.pointee.offsetMask == 0
    }

    /// Sends one transfer straight between the file and the caller's memory at byte `at` of the request, if alignment
    /// allows. False: nothing was done.
    @inline(__always) func sendStraight(
        _ fileIndex: UInt16, _ host: UInt64, into base: UnsafeMutableRawPointer, at: Int, _ length: Int, _ slot: Int32
    ) -> Bool {
        guard isStraight(fileIndex, host, base + at, length) else { return false }
        let piece = takePiece(for: slot)
        guard piece >= 0 else { return false }
        fill(piece, .plain, fileIndex, at: at, length: length, host: host)
        let sent = prepareTransfer(
            slot, files + Int(fileIndex), base + at, length, host, userData: tag(Tag.piece, piece))
        if !sent { deferred.push(tag(Tag.piece, piece)) }
        return true
    }

    /// Transfers for a data extent at the slot's cursor. False: the slot is parked with its cursor at what is not issued.
    func issueData(_ extent: Extent, _ slot: Int32) -> Bool {
        guard Int(extent.file) < fileCount else {
            fail(slot, EIO)
            return true
        }
        let record = slots + Int(slot)
        let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
        let length = Int(truncatingIfNeeded: extent.length)
        if record.pointee.operation == .write, hidesCut(extent.host.bytes, length) {
            failCut(slot)
            return true
        }
        if record.pointee.operation == .write, extent.file == plainFile,
            writeNow(slot, at: at, length, extent.host.bytes)
        {
            record.pointee.cursor &+= extent.length
            return true
        }
        if isCutKnown, record.pointee.operation == .write {
            failCut(slot)
            return true
        }
        if record.pointee.operation == .read, moveTogether(slot, at: at, length, extent.file, extent.host.bytes) {
            record.pointee.cursor &+= extent.length
            return true
        }
        if record.pointee.operation == .read, let base = record.pointee.base,
            readMapped(extent.file, extent.host.bytes, base + at, length)
        {
            record.pointee.cursor &+= extent.length
            return true
        }
        if let base = record.pointee.base,
            sendStraight(extent.file, extent.host.bytes, into: base, at: at, length, slot)
        {
            record.pointee.cursor &+= extent.length
            return true
        }
        return issueSplit(extent, slot)
    }

    /// The same in as many transfers as alignment and sizes ask for.
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
            // A block that is written in part would have to be read first: such files are not written directly.
            guard
                kind != .bounce || record.pointee.operation == .read
                    || (host | UInt64(truncatingIfNeeded: left)) & file.offsetMask == 0
            else {
                fail(slot, EINVAL)
                return true
            }
            let ownsList = kind == .vector && !isWhole(record, at, length)
            guard bounces.available > 0 || kind != .bounce, lists.available > 0 || !ownsList else { return park(slot) }
            let piece = takePiece(for: slot)
            guard piece >= 0 else { return park(slot) }
            fill(piece, kind, extent.file, at: at, length: length, host: host)
            if ownsList { pieces[Int(piece)].list = lists.take() }
            if kind == .bounce { fillBounce(piece, own) }
            record.pointee.cursor &+= UInt64(length)
            host &+= UInt64(length)
            left &-= length
            send(piece)
        }
        return true
    }

    /// The piece is the whole request, and the caller's list fits it as it is.
    @inline(__always) private func isWhole(_ record: UnsafeMutablePointer<Slot>, _ at: Int, _ length: Int) -> Bool {
        at == 0 && record.pointee.isExact
            && UInt64(truncatingIfNeeded: length) == record.pointee.end &- record.pointee.start
    }

    /// Gives a piece its buffer; a write's bytes go in at once.
    private func fillBounce(_ piece: Int32, _ own: CallerMemory) {
        let record = pieces + Int(piece)
        record.pointee.bounce = bounces.take()
        record.pointee.got = 0
        statistics.bounces &+= 1
        guard slots[Int(record.pointee.slot)].operation == .write else { return }
        own.copyOut(bounces.buffer(record.pointee.bounce), at: record.pointee.at, length: record.pointee.left)
    }

    /// How much of `left` bytes to move through one bounce buffer: up to the next place from where the rest can go
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

    /// Prepares the transfer of a piece, or queues it until the ring has room.
    func send(_ piece: Int32) {
        if !prepare(piece) { deferred.push(tag(Tag.piece, piece)) }
    }

    @inline(__always) func prepareTransfer(
        _ slot: Int32, _ file: UnsafePointer<FileSide>, _ memory: UnsafeMutableRawPointer, _ length: Int,
        _ host: UInt64, userData: UInt64
    ) -> Bool {
        let count = UInt32(truncatingIfNeeded: length)
        let (fd, flags) = (file.pointee.ringData, file.pointee.flags)
        guard slots[Int(slot)].operation != .read else {
            return ring.prepareRead(
                fd: fd, buffer: memory, count: count, offset: host, userData: userData, flags: flags)
        }
        return ring.prepareWrite(
            fd: fd, buffer: memory, count: count, offset: host, userData: userData, flags: flags,
            durable: writeThrough)
    }

    func prepare(_ piece: Int32) -> Bool {
        let record = pieces + Int(piece)
        let place = UnsafePointer(files + Int(record.pointee.file))
        let file = place.pointee
        let mark = tag(Tag.piece, piece)
        switch record.pointee.kind {
        case .bounce:
            // Whole blocks around the range; what is in the buffer already is whole blocks too.
            let first = record.pointee.host & ~file.offsetMask
            let end = (record.pointee.host &+ UInt64(record.pointee.left) &+ file.offsetMask) & ~file.offsetMask
            let got = record.pointee.got
            return prepareTransfer(
                record.pointee.slot, place, bounces.buffer(record.pointee.bounce) + got,
                Int(truncatingIfNeeded: end &- first) &- got, first &+ UInt64(got), userData: mark)
        case .allocation:
            return ring.prepareFallocate(
                fd: file.buffered, mode: record.pointee.mode, offset: record.pointee.host,
                length: UInt64(record.pointee.left), userData: mark)
        case .zeros:
            return ring.prepareWrite(
                fd: file.ringData, buffer: zeros, count: UInt32(min(record.pointee.left, RequestEngine.zeroBytes)),
                offset: record.pointee.host, userData: mark, flags: file.flags, durable: writeThrough)
        case .merged:
            return prepareList(
                record.pointee.slot, place, lists[record.pointee.list], record.pointee.at, record.pointee.host, mark)
        case .buffered:
            return prepareTransfer(
                record.pointee.slot, place, allocationBuffer(record.pointee.op) + record.pointee.at,
                record.pointee.left,
                record.pointee.host, userData: mark)
        case .plain, .vector, .cluster:
            return prepareOwn(record, place, mark)
        }
    }

    /// Between the file and the request's own memory.
    private func prepareOwn(
        _ record: UnsafeMutablePointer<Piece>, _ file: UnsafePointer<FileSide>, _ mark: UInt64
    ) -> Bool {
        let slot = slots + Int(record.pointee.slot)
        if let base = slot.pointee.base {
            return prepareTransfer(
                record.pointee.slot, file, base + record.pointee.at, record.pointee.left, record.pointee.host,
                userData: mark)
        }
        if record.pointee.list < 0, let list = slot.pointee.iovecs {
            return prepareList(
                record.pointee.slot, file, list, Int(slot.pointee.iovecCount), record.pointee.host, mark)
        }
        let list = lists[record.pointee.list]
        let count = memory(of: record.pointee.slot).slice(
            at: record.pointee.at, length: record.pointee.left, into: list)
        return prepareList(record.pointee.slot, file, list, count, record.pointee.host, mark)
    }

    private func prepareList(
        _ slot: Int32, _ file: UnsafePointer<FileSide>, _ list: UnsafeMutablePointer<iovec>, _ count: Int,
        _ host: UInt64, _ mark: UInt64
    ) -> Bool {
        let number = UInt32(truncatingIfNeeded: count)
        let (fd, flags) = (file.pointee.ringData, file.pointee.flags)
        guard slots[Int(slot)].operation == .write else {
            return ring.prepareReadv(fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags)
        }
        return ring.prepareWritev(
            fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags, durable: writeThrough)
    }
}
