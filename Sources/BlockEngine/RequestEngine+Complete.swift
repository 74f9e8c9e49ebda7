// What the kernel says of an entry of the ring: done, short, not now, or why not. Only a transfer that is whole is a
// success; the rest of a short one is asked for again.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    @inline(__always) func completeTransfer(_ transfer: TransferIndex, _ result: Int32) {
        if transfers.records[transfer].kind == .plain, Int(result) == transfers.records[transfer].left {
            pageCache.sawPages(
                transfers.records[transfer].file, transfers.records[transfer].host, transfers.records[transfer].left)
            release(transfer, error: 0)
        } else {
            completeOther(transfer, result)
        }
    }

    @inline(never) private func completeOther(_ transfer: TransferIndex, _ result: Int32) {
        switch transfers.records[transfer].kind {
        case .merged: completeMerged(transfer, result)
        case .allocation: completeAllocation(transfer, result)
        case .bounce where result > 0: completeBounce(transfer, Int(result))
        default: if result > 0 { completeShort(transfer, Int(result)) } else { completeWithout(transfer, result) }
        }
    }

    /// Some of a plain or vectored transfer was done; the rest is asked for again.
    private func completeShort(_ transfer: TransferIndex, _ result: Int) {
        let it = transfers.records[transfer]
        guard result < it.left else { return release(transfer, error: 0) }
        // A direct read stops between blocks only where the file ends; then the rest of the range is not there. A write
        // is repeated from the last whole block on.
        let usable = result & ~Int(truncatingIfNeeded: transfers.files[it.file].offsetMask)
        guard usable == result || requests[it.request].operation != .read else {
            return release(transfer, error: EIO)
        }
        if usable == 0 { return completeWithout(transfer, -EAGAIN) }
        counters.retries &+= 1
        if it.kind == .vector, !it.list.exists { return resubmitRemainder(transfer, after: usable) }
        transfers.records[transfer].at &+= usable
        transfers.records[transfer].host &+= UInt64(usable)
        transfers.records[transfer].left &-= usable
        transfers.records[transfer].retries = 0
        transfers.send(transfer, of: requests)
    }

    /// The request's one transfer ended early; its rest has other ranges than the caller's list.
    private func resubmitRemainder(_ transfer: TransferIndex, after done: Int) {
        let request = transfers.records[transfer].request
        transfers.give(transfer)
        requests[request].transfers &-= 1
        beginAdvance(request, after: UInt64(truncatingIfNeeded: done))
    }

    /// Blocks went through a bounce buffer: a read's are copied once the range is complete.
    private func completeBounce(_ transfer: TransferIndex, _ result: Int) {
        let it = transfers.records[transfer]
        let mask = transfers.files[it.file].offsetMask
        let into = Int(truncatingIfNeeded: it.host & mask)
        let got = it.got &+ result
        if got >= into &+ it.left {
            if requests[it.request].operation == .read {
                unsafe requests[it.request].memory.copy(
                    transfers.bounces.buffer(it.bounce) + into, at: it.at, length: it.left)
            }
            return finishBounce(transfer, 0)
        }
        guard result & Int(truncatingIfNeeded: mask) == 0 else { return finishBounce(transfer, EIO) }
        transfers.records[transfer].got = got
        transfers.records[transfer].retries = 0
        counters.retries &+= 1
        transfers.send(transfer, of: requests)
    }

    private func finishBounce(_ transfer: TransferIndex, _ error: Int32) {
        transfers.giveBounce(transfer)
        release(transfer, error: error)
    }

    /// Nothing came: the file ended inside a data extent (an error, never zeros), or the system says why.
    private func completeWithout(_ transfer: TransferIndex, _ result: Int32) {
        if result == -EAGAIN || result == -EINTR, transfers.records[transfer].retries < TransferQueue.retryLimit {
            transfers.records[transfer].retries &+= 1
            counters.retries &+= 1
            transfers.send(transfer, of: requests)
            return
        }
        let error = result == 0 ? EIO : 0 &- result
        if transfers.records[transfer].kind == .bounce {
            finishBounce(transfer, error)
        } else {
            release(transfer, error: error)
        }
    }

    /// All requests of a merged transfer are done, or each is on its own.
    private func completeMerged(_ transfer: TransferIndex, _ result: Int32) {
        let it = transfers.records[transfer]
        let isWhole = Int(result) == it.left
        if isWhole { pageCache.sawPages(it.file, it.host, it.left) }
        transfers.give(transfer)
        var request = it.request
        while request.exists {
            let next = requests[request].next
            requests[request].transfers &-= 1
            if isWhole {
                finish(request)
            } else {
                counters.retries &+= 1
                beginAdvance(request)
            }
            request = next
        }
    }

    /// A zeroing or a hole is there, or has to be made by other means.
    private func completeAllocation(_ transfer: TransferIndex, _ result: Int32) {
        let it = transfers.records[transfer]
        if result == 0 {
            // The kernel has dropped what it had in memory there.
            pageCache.forget(it.file, it.host, UInt64(it.left))
            return release(transfer, error: 0)
        }
        if result == -EINTR || result == -EAGAIN, it.retries < TransferQueue.retryLimit {
            transfers.records[transfer].retries &+= 1
            return transfers.send(transfer, of: requests)
        }
        guard ZeroModes.isRefusal(0 &- result) else { return release(transfer, error: 0 &- result) }
        switch zeroModes.refuse(it.mode, isDiscard: requests[it.request].operation == .discard) {
        case .nothing: return release(transfer, error: 0)
        case .mode(let mode): transfers.records[transfer].mode = mode
        case .writtenOut: transfers.records[transfer].kind = .zeros
        }
        transfers.send(transfer, of: requests)
    }

    /// A transfer of the request is back and free again.
    @inline(__always) private func release(_ transfer: TransferIndex, error: Int32) {
        let request = transfers.records[transfer].request
        let allocation = transfers.records[transfer].allocation
        transfers.give(transfer)
        if error != 0 { fail(request, error) }
        requests[request].transfers &-= 1
        if allocation.exists { return link(allocation, error) }
        if requests[request].transfers == 0, requests[request].state == .draining { finish(request) }
    }

    // MARK: metadata, streams and syncs

    func completeTable(_ load: TableLoadIndex, _ result: Int32) {
        switch tables.complete(load, result) {
        case .again:
            if result <= 0 { counters.retries &+= 1 }
            sendTable(load)
        case .loaded(let table, let bytes, var waiters):
            unsafe chain.supply(table, bytes)
            // All of them advance before any other table is supplied here: the one they wanted is still there.
            while !waiters.isEmpty { makeReady(waiters.pop(from: requests), .resumed) }
        case .failed(let table, let error, var waiters):
            while !waiters.isEmpty {
                let request = waiters.pop(from: requests)
                failTable(table, request, error)
                makeReady(request, .resumed)
            }
        }
    }

    func completeStream(_ load: ClusterLoadIndex, _ result: Int32) {
        switch clusters.complete(load, result, of: chain) {
        case .again:
            if result <= 0 { counters.retries &+= 1 }
            return sendStream(load)
        case .decoded(let bytes, var waiters):
            counters.clustersDecoded &+= 1
            while !waiters.isEmpty {
                let transfer = waiters.pop(from: transfers.records)
                let part = transfers.records[transfer]
                unsafe requests[part.request].memory.copy(
                    bytes + Int(truncatingIfNeeded: part.host), at: part.at, length: part.left)
                release(transfer, error: 0)
            }
        case .failed(let error, var waiters):
            while !waiters.isEmpty { release(waiters.pop(from: transfers.records), error: error) }
        }
    }

    /// Takes in a flush, or the end of a change that must be durable before it is answered.
    func flush(_ request: RequestIndex) {
        guard chain.isWritable, !ignoresFlushes else { return finish(request) }
        requests[request].state = .syncing
        if let allocations, allocations.writer.flushesMapping { return flushMapping(request, allocations) }
        if flushes.add(request, in: requests) { startSync() }
    }

    func completeSync(_ result: Int32) {
        if result == -EINTR || result == -EAGAIN { return sendSync() }
        let isBuffered = !transfers.files[plainFile].isDirect
        let error = chain.flushed(0 &- result, buffered: isBuffered)
        if result < 0, isBuffered { allocations?.writer.foundLoss(0 &- result) }
        var (answered, startsNext) = flushes.complete()
        if startsNext { startSync() }
        while !answered.isEmpty {
            let request = answered.pop(from: requests)
            if error != 0 { fail(request, error) }
            answer(request)
        }
    }

    // MARK: wake-ups

    /// The eventfd was signalled: another worker or the writer's helper has done something.
    func onWakeup() {
        guard let allocations else { return }
        allocations.isPollArmed = false
        allocations.isPollEnding = false
        allocations.client.wakeup.take()
        allocations.writer.stopWaiting(allocations.client)
        finishFlushes(allocations)
        wakeWaiting(allocations)
        advanceReady(resumesWaiting: false)
        if allocations.hasWaiters {
            allocations.writer.startWaiting(allocations.client)
            armPoll(allocations)
            // A flush that ended in between has not rung.
            finishFlushes(allocations)
        }
        endPoll(allocations)
    }

    /// Every request that waits for others advances; one that must wait on goes to the end of the line.
    func wakeWaiting(_ allocations: AllocatingWrites) {
        var line = allocations.waiting.takeAll()
        while !line.isEmpty { makeReady(line.pop(from: requests), .resumed) }
    }

    /// When no request waits the eventfd's poll must end: the engine may be dropped.
    func endPoll(_ allocations: AllocatingWrites) {
        guard allocations.isPollArmed, !allocations.isPollEnding, !allocations.hasWaiters else { return }
        allocations.isPollEnding = true
        allocations.client.wakeup.signal()
    }

    private func finishFlushes(_ allocations: AllocatingWrites) {
        var line = allocations.flushing.takeAll()
        while !line.isEmpty {
            let request = line.pop(from: requests)
            guard let error = allocations.writer.result(of: requests[request].flushTicket) else {
                allocations.flushing.push(request, in: requests)
                continue
            }
            counters.syncs &+= 1
            if error != 0 { fail(request, error) }
            answer(request)
        }
    }
}
