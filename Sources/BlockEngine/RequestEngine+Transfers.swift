// Plain data. An extent becomes one transfer straight into or out of the caller's memory wherever alignment allows it, and
// transfers through aligned buffers where it does not. Nothing here looks at formats.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// Transfers for a data extent at the request's cursor. False: the request waits for resources with its cursor at
    /// what is not submitted.
    func submitData(_ extent: Extent, _ request: RequestIndex) -> Bool {
        guard Int(extent.file) < transfers.files.count else {
            fail(request, EIO)
            return true
        }
        let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
        let length = Int(truncatingIfNeeded: extent.length)
        if requests[request].operation == .write {
            switch pageCache.write(requests[request].memory, at: at, length, extent.file, extent.host.bytes) {
            case .done:
                requests[request].cursor &+= extent.length
                return true
            case .fileWasCut:
                failCut(request)
                return true
            case .absent: break
            }
        } else if requests[request].operation == .read,
            pageCache.read(requests[request].memory, at: at, length, extent.file, extent.host.bytes)
        {
            requests[request].cursor &+= extent.length
            return true
        }
        if let base = unsafe requests[request].base,
            unsafe sendStraight(extent.file, extent.host.bytes, into: base, at: at, length, request)
        {
            requests[request].cursor &+= extent.length
            return true
        }
        return submitSplit(extent, request)
    }

    /// The same in as many transfers as alignment and sizes ask for.
    private func submitSplit(_ extent: Extent, _ request: RequestIndex) -> Bool {
        let file = transfers.files[extent.file]
        let own = requests[request].memory
        let isWrite = requests[request].operation == .write
        var host = extent.host.bytes
        var left = Int(truncatingIfNeeded: extent.length)
        while left > 0 {
            let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
            let part = TransferPart(own, at: at, host: host, left: left, file)
            // A block that is written in part would have to be read first: such files are not written directly.
            guard
                part.kind != .bounce || requests[request].operation == .read
                    || (host | UInt64(truncatingIfNeeded: left)) & file.offsetMask == 0
            else {
                fail(request, EINVAL)
                return true
            }
            let ownsList = part.kind == .vector && !isWhole(request, at, part.length)
            guard transfers.bounces.available > 0 || part.kind != .bounce, transfers.lists.available > 0 || !ownsList
            else { return waitForResources(request) }
            let transfer = transfers.take(for: request, in: requests)
            guard transfer.exists else { return waitForResources(request) }
            fill(transfer, part.kind, extent.file, at: at, length: part.length, host: host)
            if ownsList { transfers.records[transfer].list = transfers.lists.take() }
            if part.kind == .bounce {
                transfers.fillBounce(transfer, own, isWrite: isWrite)
                counters.bounces &+= 1
            }
            requests[request].cursor &+= UInt64(part.length)
            host &+= UInt64(part.length)
            left &-= part.length
            transfers.send(transfer, of: requests)
        }
        return true
    }

    /// The transfer is the whole request, and the caller's list fits it as it is.
    @inline(__always) private func isWhole(_ request: RequestIndex, _ at: Int, _ length: Int) -> Bool {
        at == 0 && requests[request].isExact
            && UInt64(truncatingIfNeeded: length) == requests[request].end &- requests[request].start
    }

    /// The bytes of a compressed extent at the request's cursor. False: the request waits for resources.
    func submitCompressed(_ extent: Extent, _ request: RequestIndex) -> Bool {
        let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
        let length = Int(truncatingIfNeeded: extent.length)
        let into = extent.guest.bytes &- extent.clusterStart.bytes
        let entry: CachedClusterIndex
        switch clusters.find(extent, size: chain.clusterSize(ofLayer: extent.layer), mayWait: transfers.canTake) {
        case .malformed:
            fail(request, EIO)
            return true
        case .full:
            return waitForResources(request)
        case .cached(let bytes):
            counters.cacheHits &+= 1
            unsafe requests[request].memory.copy(bytes + Int(into), at: at, length: length)
            requests[request].cursor &+= extent.length
            return true
        case .loading(let joined):
            counters.cacheJoins &+= 1
            entry = joined
        case .started(let new, let load):
            sendStream(load)
            entry = new
        }
        let transfer = transfers.take(for: request, in: requests)
        transfers.fill(transfer, .cluster, extent.file, at: at, length: length, host: into)
        clusters.wait(for: entry, transfer, in: transfers.records)
        requests[request].cursor &+= extent.length
        return true
    }

    /// Starts to make an extent zero. False: the request waits for resources.
    func submitZeroes(_ extent: Extent, _ request: RequestIndex) -> Bool {
        let isDiscard = requests[request].operation == .discard
        let first = zeroModes.first(
            isDiscard: isDiscard, discards: discards, mayUnmap: requests[request].mayUnmap)
        guard let mode = first else {
            requests[request].cursor &+= extent.length
            return true
        }
        guard !pageCache.cut.hidesCut(extent.host.bytes, Int(truncatingIfNeeded: extent.length)) else {
            failCut(request)
            return true
        }
        let transfer = transfers.take(for: request, in: requests)
        guard transfer.exists else { return waitForResources(request) }
        let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
        fill(
            transfer, mode == 0 ? .zeros : .allocation, extent.file, at: at,
            length: Int(truncatingIfNeeded: extent.length), host: extent.host.bytes)
        transfers.records[transfer].mode = mode
        requests[request].cursor &+= extent.length
        transfers.send(transfer, of: requests)
        return true
    }

    // MARK: metadata and syncs

    /// Puts the request into the line of a table, starting its read if it is the first. False: the request cannot wait for
    /// it and failed.
    func awaitTable(_ table: TableRead, _ request: RequestIndex) -> Bool {
        switch tables.wait(for: table, request, in: requests) {
        case .joined: break
        case .started(let load):
            counters.tableReads &+= 1
            sendTable(load)
        case .full: waitForResources(request)
        case .refused:
            failTable(table, request, EIO)
            return false
        }
        return true
    }

    func failTable(_ table: TableRead, _ request: RequestIndex, _ error: Int32) {
        if requests[request].error == 0 {
            requests[request].hasDamage = true
            requests[request].damage = MapDamage(
                reason: .tableUnreadable, layer: table.layer, guest: GuestOffset(requests[request].cursor),
                length: requests[request].end &- requests[request].cursor, table: table.host)
        }
        fail(request, error)
    }

    /// Reads what a table lacks.
    func sendTable(_ load: TableLoadIndex) {
        let mark = transfers.tag(CompletionTag.table, load)
        if !tables.prepare(load, on: transfers.ring, transfers.files, userData: mark) { transfers.backlog.push(mark) }
    }

    /// Reads what a compressed stream lacks.
    func sendStream(_ load: ClusterLoadIndex) {
        let mark = transfers.tag(CompletionTag.cluster, load)
        if !clusters.prepare(load, on: transfers.ring, transfers.files, userData: mark) { transfers.backlog.push(mark) }
    }

    /// Starts an fdatasync, which answers the flushes that came until now.
    func startSync() {
        counters.syncs &+= 1
        sendSync()
    }

    /// Flushes the file of the data, which is all that in-place writes touch.
    func sendSync() {
        if !prepareSync() { transfers.backlog.push(transfers.tag(CompletionTag.sync)) }
    }

    private func prepareSync() -> Bool {
        transfers.ring.prepareFsync(
            fd: transfers.files[plainFile].buffered, dataOnly: true, userData: transfers.tag(CompletionTag.sync))
    }

    /// Polls the eventfd by which the image's writer wakes this engine.
    func sendPoll() {
        if !preparePoll() { transfers.backlog.push(transfers.tag(CompletionTag.wakeup)) }
    }

    private func preparePoll() -> Bool {
        guard let allocations else { return true }
        return transfers.ring.preparePollAdd(
            fd: allocations.client.wakeup.raw, events: 1, userData: transfers.tag(CompletionTag.wakeup))
    }

    /// Prepares what waited for room on the ring, oldest first, until there is none again.
    func sendBacklog() {
        for _ in 0..<transfers.backlog.count {
            let mark = transfers.backlog.pop()
            let raw = CompletionTag.index(mark)
            let isSent =
                switch mark & CompletionTag.kinds {
                case CompletionTag.transfer: transfers.prepare(TransferIndex(raw: raw), of: requests)
                case CompletionTag.table:
                    tables.prepare(TableLoadIndex(raw: raw), on: transfers.ring, transfers.files, userData: mark)
                case CompletionTag.sync: prepareSync()
                case CompletionTag.wakeup: preparePoll()
                default:
                    clusters.prepare(ClusterLoadIndex(raw: raw), on: transfers.ring, transfers.files, userData: mark)
                }
            guard isSent else { return transfers.backlog.push(mark) }
        }
    }
}
