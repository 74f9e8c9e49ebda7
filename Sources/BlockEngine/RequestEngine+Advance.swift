// A request becomes work by asking the chain where its bytes are, extent by extent. This is that
// loop: it issues what it can, and where it cannot go on (a table is missing, a pool is empty) it leaves the request in
// the one list that will wake it.
import DiskTypes
import Glibc

extension RequestEngine {
    /// A table can be thrown out by other requests between its arrival and the look that wanted it. Each new try has a
    /// fair chance, so this many in a row mean that the cache cannot hold one look-up at all.
    static var tableTryLimit: UInt32 { 4096 }

    /// Goes on with a request from its cursor.
    func advance(_ request: RequestIndex) {
        switch requests[request].operation {
        case .read: advanceRead(request)
        case .write: advanceWrite(request)
        case .writeZeroes, .discard: advanceZeroes(request)
        case .flush: flush(request)
        }
    }

    private func advanceRead(_ request: RequestIndex) {
        guard requests[request].error == 0, requests[request].cursor < requests[request].end else {
            return drainOrFinish(request)
        }
        requests[request].state = .advancing
        var answer = ask(request)
        while true {
            guard case .extent(var extent) = answer else {
                guard handle(answer, request) else { return }
                break
            }
            guard extent.length > 0, extent.length <= requests[request].end &- requests[request].cursor else {
                // No map answers so; were it to, this is where it stops.
                fail(request, EIO)
                break
            }
            if requests[request].cursor &+ extent.length < requests[request].end {
                answer = merge(&extent, upTo: requests[request].end)
            }
            guard submitExtent(extent, request) else { return }
            guard requests[request].cursor < requests[request].end, requests[request].error == 0 else { break }
        }
        drainOrFinish(request)
    }

    @inline(__always) private func ask(_ request: RequestIndex) -> MapAnswer {
        chain.lookup(
            GuestOffset(requests[request].cursor), length: requests[request].end &- requests[request].cursor)
    }

    /// Grows `extent` by what follows it on guest and host; the answer for what comes after.
    private func merge(_ extent: inout Extent, upTo end: UInt64) -> MapAnswer {
        while true {
            let next = extent.guest.bytes &+ extent.length
            guard next < end else { return .extent(extent) }
            let answer = chain.lookup(GuestOffset(next), length: end &- next)
            guard case .extent(let more) = answer, extent.kind == .data, extent.continues(into: more),
                more.length > 0, more.length <= end &- next
            else { return answer }
            extent.length &+= more.length
        }
    }

    /// Work for one extent at the cursor, which moves past what was issued. False: the request is in a list and waits.
    private func submitExtent(_ extent: Extent, _ request: RequestIndex) -> Bool {
        requests[request].tableTries = 0
        switch extent.kind {
        case .data:
            return submitData(extent, request)
        case .compressed:
            return submitCompressed(extent, request)
        case .zero, .zeroAllocated, .unallocated, .unallocatedReserved:
            let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
            memory(of: request).zero(at: at, length: Int(truncatingIfNeeded: extent.length))
            requests[request].cursor &+= extent.length
            return true
        }
    }

    /// An answer that is no extent. False: the request waits.
    private func handle(_ answer: MapAnswer, _ request: RequestIndex) -> Bool {
        switch answer {
        case .needs(let table):
            return !awaitTable(table, request)
        case .damaged(let damage):
            failDamaged(request, damage)
        case .extent:
            break
        }
        return true
    }

    // MARK: ends

    /// Ends the advance of a request with an error; the first one stays. Transfers in flight still come back.
    func fail(_ request: RequestIndex, _ error: Int32) {
        if requests[request].error == 0 { requests[request].error = error }
    }

    /// Nothing more to submit: done once all transfers are back.
    @inline(__always) func drainOrFinish(_ request: RequestIndex) {
        if requests[request].transfers == 0 { finish(request) } else { requests[request].state = .draining }
    }

    /// Everything was done, well or not. Zeros that must be durable have one more step.
    @inline(__always) func finish(_ request: RequestIndex) {
        if request.position >= requestCount { return oldBytesRead(request) }
        if writeThrough, !ignoresFlushes, requests[request].error == 0,
            requests[request].operation == .writeZeroes || requests[request].needsSync
        {
            return flush(request)
        }
        requests[request].state = .finished
        finished.push(request, in: requests)
    }

    /// A transfer of the request is back and free again.
    @inline(__always) func release(_ transfer: TransferIndex, error: Int32) {
        let request = transfers[transfer].request
        if transfers[transfer].list.exists { lists.give(transfers[transfer].list) }
        let op = transfers[transfer].op
        freeTransfers.give(transfer)
        if error != 0 { fail(request, error) }
        requests[request].transfers &-= 1
        if op.exists { return endAllocation(op, error) }
        if requests[request].transfers == 0, requests[request].state == .draining { finish(request) }
    }

    // MARK: waiting for resources

    /// Puts the request at the end of the line for transfers and buffers. Always false, for `return waitForResources(request)`.
    @discardableResult func waitForResources(_ request: RequestIndex) -> Bool {
        counters.resourceWaits &+= 1
        requests[request].state = .waitingForResources
        waitingForResources.push(request, in: requests)
        return false
    }

    /// Something came back: the first in line goes on, and the next, until one has to wait again. One that does goes
    /// to the end of the line: it got its turn.
    func resumeWaiting() {
        while !waitingForResources.isEmpty, freeTransfers.available > reservedTransfers {
            let request = waitingForResources.pop(from: requests)
            advance(request)
            if requests[request].state == .waitingForResources { return }
        }
    }

    /// Takes a transfer for the request; `none` when they are all in use.
    @inline(__always) func takeTransfer(for request: RequestIndex) -> TransferIndex {
        takeTransfer(for: request, keeping: reservedTransfers)
    }

    /// The same, unless only `kept` are left.
    @inline(__always) func takeTransfer(for request: RequestIndex, keeping kept: Int) -> TransferIndex {
        guard freeTransfers.available > kept else { return .none }
        let index = freeTransfers.take()
        guard index.exists else { return .none }
        transfers[index].request = request
        transfers[index].retries = 0
        transfers[index].list = .none
        transfers[index].op = .none
        requests[request].transfers &+= 1
        return index
    }
}
