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
    func advance(_ request: Int32) {
        switch requests[Int(request)].operation {
        case .read: advanceRead(request)
        case .write: advanceWrite(request)
        case .writeZeroes, .discard: advanceZeroes(request)
        case .flush: flush(request)
        }
    }

    private func advanceRead(_ request: Int32) {
        let record = requests + Int(request)
        guard record.pointee.error == 0, record.pointee.cursor < record.pointee.end else {
            return drainOrFinish(request)
        }
        record.pointee.state = .advancing
        var answer = ask(record)
        while true {
            guard case .extent(var extent) = answer else {
                guard handle(answer, request) else { return }
                break
            }
            guard extent.length > 0, extent.length <= record.pointee.end &- record.pointee.cursor else {
                // No map answers so; were it to, this is where it stops.
                fail(request, EIO)
                break
            }
            if record.pointee.cursor &+ extent.length < record.pointee.end {
                answer = merge(&extent, upTo: record.pointee.end)
            }
            guard submitExtent(extent, request) else { return }
            guard record.pointee.cursor < record.pointee.end, record.pointee.error == 0 else { break }
        }
        drainOrFinish(request)
    }

    @inline(__always) private func ask(_ record: UnsafeMutablePointer<Request>) -> MapAnswer {
        chain.lookup(
            GuestOffset(record.pointee.cursor), length: record.pointee.end &- record.pointee.cursor)
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
    private func submitExtent(_ extent: Extent, _ request: Int32) -> Bool {
        requests[Int(request)].tableTries = 0
        switch extent.kind {
        case .data:
            return submitData(extent, request)
        case .compressed:
            return submitCompressed(extent, request)
        case .zero, .zeroAllocated, .unallocated, .unallocatedReserved:
            let record = requests + Int(request)
            let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
            memory(of: request).zero(at: at, length: Int(truncatingIfNeeded: extent.length))
            record.pointee.cursor &+= extent.length
            return true
        }
    }

    /// An answer that is no extent. False: the request waits.
    private func handle(_ answer: MapAnswer, _ request: Int32) -> Bool {
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
    func fail(_ request: Int32, _ error: Int32) {
        if requests[Int(request)].error == 0 { requests[Int(request)].error = error }
    }

    /// Nothing more to submit: done once all transfers are back.
    @inline(__always) func drainOrFinish(_ request: Int32) {
        let record = requests + Int(request)
        if record.pointee.transfers == 0 { finish(request) } else { record.pointee.state = .draining }
    }

    /// Everything was done, well or not. Zeros that must be durable have one more step.
    @inline(__always) func finish(_ request: Int32) {
        let record = requests + Int(request)
        if request >= requestCount { return oldBytesRead(request) }
        if writeThrough, !ignoresFlushes, record.pointee.error == 0,
            record.pointee.operation == .writeZeroes || record.pointee.needsSync
        {
            return flush(request)
        }
        record.pointee.state = .finished
        finished.push(request, in: requests)
    }

    /// A transfer of the request is back and free again.
    @inline(__always) func release(_ transfer: Int32, error: Int32) {
        let request = transfers[Int(transfer)].request
        if transfers[Int(transfer)].list >= 0 { lists.give(transfers[Int(transfer)].list) }
        let op = transfers[Int(transfer)].op
        freeTransfers.give(transfer)
        let record = requests + Int(request)
        if error != 0 { fail(request, error) }
        record.pointee.transfers &-= 1
        if op >= 0 { return endAllocation(op, error) }
        if record.pointee.transfers == 0, record.pointee.state == .draining { finish(request) }
    }

    // MARK: waiting for resources

    /// Puts the request at the end of the line for transfers and buffers. Always false, for `return waitForResources(request)`.
    @discardableResult func waitForResources(_ request: Int32) -> Bool {
        statistics.resourceWaits &+= 1
        requests[Int(request)].state = .waitingForResources
        waitingForResources.push(request, in: requests)
        return false
    }

    /// Something came back: the first in line goes on, and the next, until one has to wait again. One that does goes
    /// to the end of the line: it got its turn.
    func resumeWaiting() {
        while !waitingForResources.isEmpty, freeTransfers.available > reservedTransfers {
            let request = waitingForResources.pop(from: requests)
            advance(request)
            if requests[Int(request)].state == .waitingForResources { return }
        }
    }

    /// Takes a transfer for the request; `none` when they are all in use.
    @inline(__always) func takeTransfer(for request: Int32) -> Int32 {
        takeTransfer(for: request, keeping: reservedTransfers)
    }

    /// The same, unless only `kept` are left.
    @inline(__always) func takeTransfer(for request: Int32, keeping kept: Int) -> Int32 {
        guard freeTransfers.available > kept else { return none }
        let index = freeTransfers.take()
        guard index >= 0 else { return none }
        transfers[Int(index)].request = request
        transfers[Int(index)].retries = 0
        transfers[Int(index)].list = none
        transfers[Int(index)].op = none
        requests[Int(request)].transfers &+= 1
        return index
    }
}
