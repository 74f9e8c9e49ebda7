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
        return Int(fileIndex) < fileCount && length <= RequestEngine.largestRead
            && UInt(bitPattern: base) & files[fileIndex].memoryMask == 0
            && (host | UInt64(truncatingIfNeeded: length)) & files[fileIndex].offsetMask == 0
    }

    /// Sends one transfer straight between the file and the caller's memory at byte `at` of the request, if alignment
    /// allows. False: nothing was done.
    @inline(__always) func sendStraight(
        _ fileIndex: UInt16, _ host: UInt64, into base: UnsafeMutableRawPointer, at: Int, _ length: Int,
        _ request: RequestIndex
    ) -> Bool {
        guard isStraight(fileIndex, host, base + at, length) else { return false }
        let transfer = takeTransfer(for: request)
        guard transfer.exists else { return false }
        fill(transfer, .plain, fileIndex, at: at, length: length, host: host)
        let sent = prepareTransfer(
            request, fileIndex, base + at, length, host, userData: tag(CompletionTag.transfer, transfer))
        if !sent { backlog.push(tag(CompletionTag.transfer, transfer)) }
        return true
    }

    /// Transfers for a data extent at the request's cursor. False: the request waits for resources with its cursor at what is not issued.
    func submitData(_ extent: Extent, _ request: RequestIndex) -> Bool {
        guard Int(extent.file) < fileCount else {
            fail(request, EIO)
            return true
        }
        let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
        let length = Int(truncatingIfNeeded: extent.length)
        if requests[request].operation == .write {
            switch pageCache.write(memory(of: request), at: at, length, extent.file, extent.host.bytes) {
            case .done:
                requests[request].cursor &+= extent.length
                return true
            case .fileWasCut:
                failCut(request)
                return true
            case .absent: break
            }
        } else if requests[request].operation == .read,
            pageCache.read(memory(of: request), at: at, length, extent.file, extent.host.bytes)
        {
            requests[request].cursor &+= extent.length
            return true
        }
        if let base = requests[request].base,
            sendStraight(extent.file, extent.host.bytes, into: base, at: at, length, request)
        {
            requests[request].cursor &+= extent.length
            return true
        }
        return submitSplit(extent, request)
    }

    /// The same in as many transfers as alignment and sizes ask for.
    private func submitSplit(_ extent: Extent, _ request: RequestIndex) -> Bool {
        let file = files[extent.file]
        let own = memory(of: request)
        var host = extent.host.bytes
        var left = Int(truncatingIfNeeded: extent.length)
        while left > 0 {
            let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
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
                kind != .bounce || requests[request].operation == .read
                    || (host | UInt64(truncatingIfNeeded: left)) & file.offsetMask == 0
            else {
                fail(request, EINVAL)
                return true
            }
            let ownsList = kind == .vector && !isWhole(request, at, length)
            guard bounces.available > 0 || kind != .bounce, lists.available > 0 || !ownsList else {
                return waitForResources(request)
            }
            let transfer = takeTransfer(for: request)
            guard transfer.exists else { return waitForResources(request) }
            fill(transfer, kind, extent.file, at: at, length: length, host: host)
            if ownsList { transfers[transfer].list = lists.take() }
            if kind == .bounce { fillBounce(transfer, own) }
            requests[request].cursor &+= UInt64(length)
            host &+= UInt64(length)
            left &-= length
            send(transfer)
        }
        return true
    }

    /// The transfer is the whole request, and the caller's list fits it as it is.
    @inline(__always) private func isWhole(_ request: RequestIndex, _ at: Int, _ length: Int) -> Bool {
        at == 0 && requests[request].isExact
            && UInt64(truncatingIfNeeded: length) == requests[request].end &- requests[request].start
    }

    /// Gives a transfer its buffer; a write's bytes go in at once.
    private func fillBounce(_ transfer: TransferIndex, _ own: RequestMemory) {
        transfers[transfer].bounce = bounces.take()
        transfers[transfer].got = 0
        counters.bounces &+= 1
        guard requests[transfers[transfer].request].operation == .write else { return }
        own.copyOut(
            bounces.buffer(transfers[transfer].bounce), at: transfers[transfer].at, length: transfers[transfer].left)
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
        _ transfer: TransferIndex, _ kind: Transfer.Kind, _ file: UInt16, at: Int, length: Int, host: UInt64
    ) {
        transfers[transfer].kind = kind
        transfers[transfer].file = file
        transfers[transfer].at = at
        transfers[transfer].left = length
        transfers[transfer].host = host
        counters.dataTransfers &+= 1
    }

    // MARK: sending

    /// Prepares a transfer, or queues it until the ring has room.
    func send(_ transfer: TransferIndex) {
        if !prepare(transfer) { backlog.push(tag(CompletionTag.transfer, transfer)) }
    }

    @inline(__always) func prepareTransfer(
        _ request: RequestIndex, _ file: UInt16, _ memory: UnsafeMutableRawPointer, _ length: Int,
        _ host: UInt64, userData: UInt64
    ) -> Bool {
        let count = UInt32(truncatingIfNeeded: length)
        let (fd, flags) = (files[file].ringData, files[file].flags)
        guard requests[request].operation != .read else {
            return ring.prepareRead(
                fd: fd, buffer: memory, count: count, offset: host, userData: userData, flags: flags)
        }
        return ring.prepareWrite(
            fd: fd, buffer: memory, count: count, offset: host, userData: userData, flags: flags,
            durable: writeThrough)
    }

    func prepare(_ transfer: TransferIndex) -> Bool {
        let place = transfers[transfer].file
        let file = files[place]
        let mark = tag(CompletionTag.transfer, transfer)
        switch transfers[transfer].kind {
        case .bounce:
            // Whole blocks around the range; what is in the buffer already is whole blocks too.
            let first = transfers[transfer].host & ~file.offsetMask
            let end =
                (transfers[transfer].host &+ UInt64(transfers[transfer].left) &+ file.offsetMask) & ~file.offsetMask
            let got = transfers[transfer].got
            return prepareTransfer(
                transfers[transfer].request, place, bounces.buffer(transfers[transfer].bounce) + got,
                Int(truncatingIfNeeded: end &- first) &- got, first &+ UInt64(got), userData: mark)
        case .allocation:
            return ring.prepareFallocate(
                fd: file.buffered, mode: transfers[transfer].mode, offset: transfers[transfer].host,
                length: UInt64(transfers[transfer].left), userData: mark)
        case .zeros:
            return ring.prepareWrite(
                fd: file.ringData, buffer: zeros, count: UInt32(min(transfers[transfer].left, RequestEngine.zeroBytes)),
                offset: transfers[transfer].host, userData: mark, flags: file.flags, durable: writeThrough)
        case .merged:
            return prepareList(
                transfers[transfer].request, place, lists[transfers[transfer].list], transfers[transfer].at,
                transfers[transfer].host, mark)
        case .buffered:
            return prepareTransfer(
                transfers[transfer].request, place, allocationBuffer(transfers[transfer].op) + transfers[transfer].at,
                transfers[transfer].left,
                transfers[transfer].host, userData: mark)
        case .plain, .vector, .cluster:
            return prepareOwn(transfer, place, mark)
        }
    }

    /// Between the file and the request's own memory.
    private func prepareOwn(
        _ transfer: TransferIndex, _ file: UInt16, _ mark: UInt64
    ) -> Bool {
        if let base = requests[transfers[transfer].request].base {
            return prepareTransfer(
                transfers[transfer].request, file, base + transfers[transfer].at, transfers[transfer].left,
                transfers[transfer].host,
                userData: mark)
        }
        if !transfers[transfer].list.exists, let list = requests[transfers[transfer].request].iovecs {
            return prepareList(
                transfers[transfer].request, file, list, Int(requests[transfers[transfer].request].iovecCount),
                transfers[transfer].host, mark)
        }
        let list = lists[transfers[transfer].list]
        let count = memory(of: transfers[transfer].request).slice(
            at: transfers[transfer].at, length: transfers[transfer].left, into: list)
        return prepareList(transfers[transfer].request, file, list, count, transfers[transfer].host, mark)
    }

    private func prepareList(
        _ request: RequestIndex, _ file: UInt16, _ list: UnsafeMutablePointer<iovec>, _ count: Int,
        _ host: UInt64, _ mark: UInt64
    ) -> Bool {
        let number = UInt32(truncatingIfNeeded: count)
        let (fd, flags) = (files[file].ringData, files[file].flags)
        guard requests[request].operation == .write else {
            return ring.prepareReadv(fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags)
        }
        return ring.prepareWritev(
            fd: fd, iovecs: list, count: number, offset: host, userData: mark, flags: flags, durable: writeThrough)
    }
}
