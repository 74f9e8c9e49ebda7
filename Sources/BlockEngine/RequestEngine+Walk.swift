// Why this file exists: a request becomes work by asking the chain where its bytes are, extent by extent. This is that
// loop: it issues what it can, and where it cannot go on (a table is missing, a pool is empty) it leaves the slot in
// the one list that will wake it.
import DiskTypes
import Glibc

extension RequestEngine {
    /// A table can be thrown out by other requests between its arrival and the look that wanted it. Each new try has a
    /// fair chance, so this many in a row mean that the cache cannot hold one look-up at all.
    static var tableTryLimit: UInt32 { 4096 }

    /// Goes on with a slot from its cursor.
    func walk(_ slot: Int32) {
        switch slots[Int(slot)].operation {
        case .read: walkRead(slot)
        case .write: walkWrite(slot)
        case .writeZeroes, .discard: walkZeroes(slot)
        case .flush: flush(slot)
        }
    }

    private func walkRead(_ slot: Int32) {
        let record = slots + Int(slot)
        guard record.pointee.error == 0, record.pointee.cursor < record.pointee.end else {
            return drainOrFinish(slot)
        }
        record.pointee.state = .walking
        var answer = ask(record)
        while true {
            guard case .extent(var extent) = answer else {
                guard handle(answer, slot) else { return }
                break
            }
            guard extent.length > 0, extent.length <= record.pointee.end &- record.pointee.cursor else {
                // No map answers so; were it to, this is where it stops.
                fail(slot, EIO)
                break
            }
            if record.pointee.cursor &+ extent.length < record.pointee.end {
                answer = merge(&extent, upTo: record.pointee.end)
            }
            guard issue(extent, slot) else { return }
            guard record.pointee.cursor < record.pointee.end, record.pointee.error == 0 else { break }
        }
        drainOrFinish(slot)
    }

    @inline(__always) private func ask(_ record: UnsafeMutablePointer<Slot>) -> MapAnswer {
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

    /// Work for one extent at the cursor, which moves past what was issued. False: the slot is in a list and waits.
    private func issue(_ extent: Extent, _ slot: Int32) -> Bool {
        slots[Int(slot)].tableTries = 0
        switch extent.kind {
        case .data:
            return issueData(extent, slot)
        case .compressed:
            return issueCompressed(extent, slot)
        case .zero, .zeroAllocated, .unallocated, .unallocatedReserved:
            let record = slots + Int(slot)
            let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
            memory(of: slot).zero(at: at, length: Int(truncatingIfNeeded: extent.length))
            record.pointee.cursor &+= extent.length
            return true
        }
    }

    /// An answer that is no extent. False: the slot waits.
    private func handle(_ answer: MapAnswer, _ slot: Int32) -> Bool {
        switch answer {
        case .needs(let table):
            return !awaitTable(table, slot)
        case .damaged(let damage):
            failDamaged(slot, damage)
        case .extent:
            break
        }
        return true
    }

    // MARK: ends

    /// Ends the walk of a slot with an error; the first one stays. Pieces in flight still come back.
    func fail(_ slot: Int32, _ error: Int32) {
        if slots[Int(slot)].error == 0 { slots[Int(slot)].error = error }
    }

    /// Nothing more to issue: done once all pieces are back.
    @inline(__always) func drainOrFinish(_ slot: Int32) {
        let record = slots + Int(slot)
        if record.pointee.pieces == 0 { finish(slot) } else { record.pointee.state = .draining }
    }

    /// Everything was done, well or not. Zeros that must be durable have one more step.
    @inline(__always) func finish(_ slot: Int32) {
        let record = slots + Int(slot)
        if slot >= slotCount { return oldBytesRead(slot) }
        if writeThrough, !ignoresFlushes, record.pointee.error == 0,
            record.pointee.operation == .writeZeroes || record.pointee.needsSync
        {
            return flush(slot)
        }
        record.pointee.state = .finished
        finished.push(slot, in: slots)
    }

    /// A piece of the slot is back and free again.
    @inline(__always) func release(_ piece: Int32, error: Int32) {
        let slot = pieces[Int(piece)].slot
        if pieces[Int(piece)].list >= 0 { lists.give(pieces[Int(piece)].list) }
        let op = pieces[Int(piece)].op
        freePieces.give(piece)
        let record = slots + Int(slot)
        if error != 0 { fail(slot, error) }
        record.pointee.pieces &-= 1
        if op >= 0 { return endAllocation(op, error) }
        if record.pointee.pieces == 0, record.pointee.state == .draining { finish(slot) }
    }

    // MARK: waiting for resources

    /// Puts the slot at the end of the line for pieces and buffers. Always false, for `return park(slot)`.
    @discardableResult func park(_ slot: Int32) -> Bool {
        statistics.parks &+= 1
        slots[Int(slot)].state = .parked
        parked.push(slot, in: slots)
        return false
    }

    /// Something came back: the first in line goes on, and the next, until one has to wait again. One that does goes
    /// to the end of the line: it got its turn.
    func resumeParked() {
        while !parked.isEmpty, freePieces.available > keptPieces {
            let slot = parked.pop(from: slots)
            walk(slot)
            if slots[Int(slot)].state == .parked { return }
        }
    }

    /// Takes a piece for the slot; `none` when they are all in use.
    @inline(__always) func takePiece(for slot: Int32) -> Int32 { takePiece(for: slot, keeping: keptPieces) }

    /// The same, unless only `kept` are left.
    @inline(__always) func takePiece(for slot: Int32, keeping kept: Int) -> Int32 {
        guard freePieces.available > kept else { return none }
        let index = freePieces.take()
        guard index >= 0 else { return none }
        pieces[Int(index)].slot = slot
        pieces[Int(index)].retries = 0
        pieces[Int(index)].list = none
        pieces[Int(index)].op = none
        slots[Int(slot)].pieces &+= 1
        return index
    }
}
