// Plain data. An extent becomes one transfer straight into or out of the caller's memory wherever
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
        _ fileIndex: UInt16, _ host: UInt64, into base: UnsafeMutableRawPointer, at: Int, _ length: Int,
        _ request: Int32
    ) -> Bool {
        guard isStraight(fileIndex, host, base + at, length) else { return false }
        let transfer = takeTransfer(for: request)
        guard transfer >= 0 else { return false }
        fill(transfer, .plain, fileIndex, at: at, length: length, host: host)
        let sent = prepareTransfer(
            request, files + Int(fileIndex), base + at, length, host, userData: tag(CompletionTag.transfer, transfer))
        if !sent { backlog.push(tag(CompletionTag.transfer, transfer)) }
        return true
    }

    /// Transfers for a data extent at the request's cursor. False: the request waits for resources with its cursor at what is not issued.
    func submitData(_ extent: Extent, _ request: Int32) -> Bool {
        guard Int(extent.file) < fileCount else {
            fail(request, EIO)
            return true
        }
        let record = requests + Int(request)
        let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
        let length = Int(truncatingIfNeeded: extent.length)
        if record.pointee.operation == .write, hidesCut(extent.host.bytes, length) {
            failCut(request)
            return true
        }
        if record.pointee.operation == .write, extent.file == plainFile,
            writeNow(request, at: at, length, extent.host.bytes)
        {
            record.pointee.cursor &+= extent.length
            return true
        }
        if isCutKnown, record.pointee.operation == .write {
            failCut(request)
            return true
        }
        if record.pointee.operation == .read, moveTogether(request, at: at, length, extent.file, extent.host.bytes) {
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
            sendStraight(extent.file, extent.host.bytes, into: base, at: at, length, request)
        {
            record.pointee.cursor &+= extent.length
            return true
        }
        return submitSplit(extent, request)
    }

    /// The same in as many transfers as alignment and sizes ask for.
    private func submitSplit(_ extent: Extent, _ request: Int32) -> Bool {
        let record = requests + Int(request)
        let file = files[Int(extent.file)]
        let own = memory(of: request)
        var host = extent.host.bytes
        var left = Int(truncatingIfNeeded: extent.length)
        while left > 0 {
            let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
            var length = min(left, RequestEngine.largestRead)
            var kind: Transfer.Kind = own.base == nil ? .vector : .plain
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
                fail(request, EINVAL)
                return true
            }
            let ownsList = kind == .vector && !isWhole(record, at, length)
            guard bounces.available > 0 || kind != .bounce, lists.available > 0 || !ownsList else {
                return waitForResources(request)
            }
            let transfer = takeTransfer(for: request)
            guard transfer >= 0 else { return waitForResources(request) }
            fill(transfer, kind, extent.file, at: at, length: length, host: host)
            if ownsList { transfers[Int(transfer)].list = lists.take() }
            if kind == .bounce { fillBounce(transfer, own) }
            record.pointee.cursor &+= UInt64(length)
            host &+= UInt64(length)
            left &-= length
            send(transfer)
        }
        return true
    }

    /// The transfer is the whole request, and the caller's list fits it as it is.
    @inline(__always) private func isWhole(_ record: UnsafeMutablePointer<Request>, _ at: Int, _ length: Int) -> Bool {
        at == 0 && record.pointee.isExact
            && UInt64(truncatingIfNeeded: length) == record.pointee.end &- record.pointee.start
    }

    /// Gives a transfer its buffer; a write's bytes go in at once.
    private func fillBounce(_ transfer: Int32, _ own: RequestMemory) {
        let record = transfers + Int(transfer)
        record.pointee.bounce = bounces.take()
        record.pointee.got = 0
        statistics.bounces &+= 1
        guard requests[Int(record.pointee.request)].operation == .write else { return }
        own.copyOut(bounces.buffer(record.pointee.bounce), at: record.pointee.at, length: record.pointee.left)
    }

    /// How much of `left` bytes to move through one bounce buffer: up to the next place from where the rest can go
    /// straight into the caller's memory, if there is one; else as much as the buffer takes.
    private func bounceLength(_ own: RequestMemory, at: Int, host: UInt64, left: Int, _ file: DataFile) -> Int {
        let into = Int(truncatingIfNeeded: host & file.offsetMask)
        let most = min(left, BounceBuffers.bufferBytes &- into)
        let toAligned = into == 0 ? 0 : Int(truncatingIfNeeded: file.offsetMask) &+ 1 &- into
        guard let base = own.base, toAligned > 0, toAligned < left,
            UInt(bitPattern: base + at + toAligned) & file.memoryMask == 0
        else { return most }
        return min(most, toAligned)
    }

    @inline(__always) func fill(
        _ transfer: Int32, _ kind: Transfer.Kind, _ file: UInt16, at: Int, length: Int, host: UInt64
    ) {
        let record = transfers + Int(transfer)
        record.pointee.kind = kind
        record.pointee.file = file
        record.pointee.at = at
        record.pointee.left = length
        record.pointee.host = host
        statistics.dataTransfers &+= 1
    }

    // MARK: sending

    /// Prepares a transfer, or queues it until the ring has room.
    func send(_ transfer: Int32) {
        if !prepare(transfer) { backlog.push(tag(CompletionTag.transfer, transfer)) }
    }

    @inline(__always) func prepareTransfer(
        _ request: Int32, _ file: UnsafePointer<DataFile>, _ memory: UnsafeMutableRawPointer, _ length: Int,
        _ host: UInt64, userData: UInt64
    ) -> Bool {
        let count = UInt32(truncatingIfNeeded: length)
        let (fd, flags) = (file.pointee.ringData, file.pointee.flags)
        guard requests[Int(request)].operation != .read else {
            return ring.prepareRead(
                fd: fd, buffer: memory, count: count, offset: host, userData: userData, flags: flags)
        }
        return ring.prepareWrite(
            fd: fd, buffer: memory, count: count, offset: host, userData: userData, flags: flags,
            durable: writeThrough)
    }

    func prepare(_ transfer: Int32) -> Bool {
        let record = transfers + Int(transfer)
        let place = UnsafePointer(files + Int(record.pointee.file))
        let file = place.pointee
        let mark = tag(CompletionTag.transfer, transfer)
        switch record.pointee.kind {
        case .bounce:
            // Whole blocks around the range; what is in the buffer already is whole blocks too.
            let first = record.pointee.host & ~file.offsetMask
            let end = (record.pointee.host &+ UInt64(record.pointee.left) &+ file.offsetMask) & ~file.offsetMask
            let got = record.pointee.got
            return prepareTransfer(
                record.pointee.request, place, bounces.buffer(record.pointee.bounce) + got,
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
                record.pointee.request, place, lists[record.pointee.list], record.pointee.at, record.pointee.host, mark)
        case .buffered:
            return prepareTransfer(
                record.pointee.request, place, allocationBuffer(record.pointee.op) + record.pointee.at,
                record.pointee.left,
                record.pointee.host, userData: mark)
        case .plain, .vector, .cluster:
            return prepareOwn(record, place, mark)
        }
    }

    /// Between the file and the request's own memory.
    private func prepareOwn(
        _ record: UnsafeMutablePointer<Transfer>, _ file: UnsafePointer<DataFile>, _ mark: UInt64
    ) -> Bool {
        let request = requests + Int(record.pointee.request)
        if let base = request.pointee.base {
            return prepareTransfer(
                record.pointee.request, file, base + record.pointee.at, record.pointee.left, record.pointee.host,
                userData: mark)
        }
        if record.pointee.list < 0, let list = request.pointee.iovecs {
            return prepareList(
                record.pointee.request, file, list, Int(request.pointee.iovecCount), record.pointee.host, mark)
        }
        let list = lists[record.pointee.list]
        let count = memory(of: record.pointee.request).slice(
            at: record.pointee.at, length: record.pointee.left, into: list)
        return prepareList(record.pointee.request, file, list, count, record.pointee.host, mark)
    }

    private func prepareList(
        _ request: Int32, _ file: UnsafePointer<DataFile>, _ list: UnsafeMutablePointer<iovec>, _ count: Int,
        _ host: UInt64, _ mark: UInt64
    ) -> Bool {
        let number = UInt32(truncatingIfNeeded: count)
        let (fd, flags) = (file.pointee.ringData, file.pointee.flags)
        guard requests[Int(request)].operation == .write else {
            return ring.prepareReadv(fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags)
        }
        return ring.prepareWritev(
            fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags, durable: writeThrough)
    }
}
