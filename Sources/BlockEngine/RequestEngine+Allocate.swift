// Why this file exists: bytes that have no cluster of their own yet. The image's writer says where they go; they go there
// straight, or together with the old bytes around them; then the mapping changes. Who must wait stands in a line until the
// bell rings.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import QCOW2

extension RequestEngine {
    /// Asks whether writes may begin. False: the slot waits.
    func prepareToWrite(_ slot: Int32) -> Bool {
        guard let allocations else { return true }
        allocations.writer.startWaiting(allocations.client)
        if allocations.writer.plan.isPrepared {
            isPrepared = true
            return true
        }
        let cursor = GuestOffset(slots[Int(slot)].cursor)
        switch allocations.writer.begin(cursor, length: 1, by: allocations.client) {
        case .wants, .busy: return waitForBell(slot, allocations)
        case .failed(let error):
            fail(slot, error)
            drainOrFinish(slot)
            return false
        case .ticket(let ticket):
            // Prepared a moment ago; this was only a question.
            allocations.writer.finish(ticket, isWritten: false, by: allocations.client)
        case .inPlace, .needs: break
        }
        isPrepared = allocations.writer.plan.isPrepared
        return true
    }

    /// Writes up to `length` bytes at the slot's cursor into new places. False: the slot is in a list and waits.
    func allocate(_ slot: Int32, _ length: UInt64, zeros: Bool) -> Bool {
        guard let allocations else {
            fail(slot, EIO)
            return true
        }
        let record = slots + Int(slot)
        guard allocations.free.available > 0, lists.available > 0 else { return park(slot) }
        let inCluster = record.pointee.cursor & UInt64(allocations.clusterSize - 1)
        let isStraight = !zeros && goesStraight(slot, at: record.pointee.cursor, length)
        let wanted = isStraight ? length : min(length, UInt64(allocations.clusterSize) - inCluster)
        let guest = GuestOffset(record.pointee.cursor)
        var grant = allocations.writer.begin(guest, length: wanted, by: allocations.client)
        switch grant {
        case .busy, .wants:
            // Whoever changes something from here on rings; what changed before is seen now.
            allocations.writer.startWaiting(allocations.client)
            grant = allocations.writer.begin(guest, length: wanted, by: allocations.client)
        default: break
        }
        switch grant {
        case .ticket(let ticket):
            record.pointee.tableTries = 0
            start(ticket, slot, wanted, zeros: zeros, allocations)
            return true
        case .inPlace: return true
        case .busy, .wants: return waitForBell(slot, allocations)
        case .needs(var table):
            table.file = chain.layers[0].metadataFile
            return !awaitTable(table, slot)
        case .failed(let error):
            fail(slot, error)
            return true
        }
    }

    /// The request's memory can go to the disk as it is, in one transfer.
    private func goesStraight(_ slot: Int32, at guest: UInt64, _ length: UInt64) -> Bool {
        let file = files[Int(plainFile)]
        let at = Int(truncatingIfNeeded: guest &- slots[Int(slot)].start)
        let count = Int(truncatingIfNeeded: length)
        guard count <= RequestEngine.largestRead else { return false }
        return file.offsetMask == 0
            || (guest | length) & file.offsetMask == 0
                && memory(of: slot).isAligned(
                    at: at, length: count, memoryMask: file.memoryMask, lengthMask: file.offsetMask)
    }

    private func start(
        _ ticket: AllocatingWrite, _ slot: Int32, _ wanted: UInt64, zeros: Bool, _ allocations: Allocations
    ) {
        let index = allocations.free.take()
        let record = slots + Int(slot)
        let op = allocations.records + Int(index)
        let inside = record.pointee.cursor &- ticket.guest.bytes
        op.pointee.ticket = ticket
        op.pointee.slot = slot
        op.pointee.at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
        op.pointee.inside = Int(truncatingIfNeeded: inside)
        op.pointee.length = Int(truncatingIfNeeded: min(wanted, ticket.length &- inside))
        op.pointee.isZeros = zeros
        record.pointee.cursor &+= UInt64(op.pointee.length)
        record.pointee.pieces &+= 1
        record.pointee.needsSync = true
        statistics.allocations &+= 1
        guard !hidesCut(ticket.host.bytes, Int(truncatingIfNeeded: ticket.length)) else {
            failCut(slot)
            return endAllocation(index, EIO, .atOnce)
        }
        switch ticket.fill {
        case .none:
            if !zeros, goesStraight(slot, at: ticket.guest.bytes &+ inside, UInt64(op.pointee.length)) {
                return sendStraight(index, op)
            }
            bringBytes(op, allocations.buffer(index))
            sendBuffer(index, op, from: op.pointee.inside, op.pointee.length)
        case .zero:
            memset(allocations.buffer(index), 0, Int(ticket.length))
            bringBytes(op, allocations.buffer(index))
            sendBuffer(index, op, from: 0, Int(ticket.length))
        case .copy: readOldBytes(index, op, allocations.buffer(index))
        }
    }

    private func bringBytes(_ op: UnsafeMutablePointer<Allocation>, _ buffer: UnsafeMutableRawPointer) {
        if op.pointee.isZeros {
            memset(buffer + op.pointee.inside, 0, op.pointee.length)
        } else {
            memory(of: op.pointee.slot).copyOut(
                buffer + op.pointee.inside, at: op.pointee.at, length: op.pointee.length)
        }
    }

    private func sendStraight(_ index: Int32, _ op: UnsafeMutablePointer<Allocation>) {
        guard let ticket = op.pointee.ticket else { return }
        let slot = op.pointee.slot
        let host = ticket.host.bytes &+ UInt64(op.pointee.inside)
        if writeNow(slot, at: op.pointee.at, op.pointee.length, host, isNew: true) {
            return endAllocation(index, 0, .atOnce)
        }
        let piece = takePiece(for: slot, keeping: 0)
        let hasOneRange = slots[Int(slot)].base != nil
        fill(
            piece, hasOneRange ? .plain : .vector, plainFile, at: op.pointee.at, length: op.pointee.length,
            host: host)
        pieces[Int(piece)].op = index
        if !hasOneRange { pieces[Int(piece)].list = lists.take() }
        send(piece)
    }

    private func sendBuffer(
        _ index: Int32, _ op: UnsafeMutablePointer<Allocation>, from: Int, _ length: Int, _ way: AllocationEnd = .atOnce
    ) {
        guard let ticket = op.pointee.ticket else { return }
        // A data file of its own is not made longer than the disk.
        let end = Int(clamping: chain.size &- ticket.guest.bytes)
        let count = chain.layers[0].dataFile == chain.layers[0].metadataFile ? length : min(length, end &- from)
        if writeNow(ticket.host.bytes &+ UInt64(from), allocationBuffer(index) + from, count, isNew: true) {
            return endAllocation(index, 0, way)
        }
        // There is one for each allocating write that no other may take.
        let piece = takePiece(for: op.pointee.slot, keeping: 0)
        fill(piece, .buffered, plainFile, at: from, length: count, host: ticket.host.bytes &+ UInt64(from))
        pieces[Int(piece)].op = index
        send(piece)
    }

    func allocationBuffer(_ index: Int32) -> UnsafeMutableRawPointer {
        allocations?.buffer(index) ?? zeros
    }

    // MARK: old bytes

    /// Reads what the guest sees in the ticket's units, as one more request of this engine.
    private func readOldBytes(_ index: Int32, _ op: UnsafeMutablePointer<Allocation>, _ buffer: UnsafeMutableRawPointer)
    {
        guard let ticket = op.pointee.ticket else { return }
        let slot = Int32(truncatingIfNeeded: slotCount) &+ index
        let record = slots + Int(slot)
        let length = min(ticket.length, chain.size &- ticket.guest.bytes)
        if length < ticket.length { memset(buffer + Int(length), 0, Int(ticket.length &- length)) }
        record.pointee = Slot()
        record.pointee.start = ticket.guest.bytes
        record.pointee.end = ticket.guest.bytes &+ length
        record.pointee.base = buffer
        record.pointee.isExact = true
        beginWalk(slot)
    }

    /// They are there: the new ones come over them, and all goes out.
    func oldBytesRead(_ slot: Int32) {
        guard let allocations else { return }
        let index = slot &- Int32(truncatingIfNeeded: slotCount)
        let op = allocations.records + Int(index)
        slots[Int(slot)].state = .free
        guard slots[Int(slot)].error == 0, let ticket = op.pointee.ticket else {
            return endAllocation(index, slots[Int(slot)].error)
        }
        bringBytes(op, allocations.buffer(index))
        sendBuffer(index, op, from: 0, Int(ticket.length), .withinWalk)
    }

    // MARK: end

    /// The bytes are in the file, or an errno says why not.
    func endAllocation(_ index: Int32, _ error: Int32, _ way: AllocationEnd = .later) {
        guard let allocations else { return }
        let op = allocations.records + Int(index)
        guard let ticket = op.pointee.ticket else { return }
        let slot = op.pointee.slot
        op.pointee.ticket = nil
        allocations.writer.finish(ticket, isWritten: error == 0, by: allocations.client)
        allocations.free.give(index)
        if error != 0 { fail(slot, error) }
        let record = slots + Int(slot)
        record.pointee.pieces &-= 1
        if record.pointee.pieces == 0, record.pointee.state == .draining { finish(slot) }
        guard !allocations.waiting.isEmpty else { return }
        switch way {
        case .atOnce: break
        case .withinWalk: allocations.client.bell.signal()
        case .later: goOnWaiting(allocations)
        }
    }
}

/// When an allocating write ends, and so who may wait for its clusters.
enum AllocationEnd {
    /// In the call in which it began: nobody of this worker has seen that they were taken.
    case atOnce
    /// Later, but perhaps within the walk of another request: whoever waits must come after that.
    case withinWalk
    /// As a completion of its own.
    case later
}
