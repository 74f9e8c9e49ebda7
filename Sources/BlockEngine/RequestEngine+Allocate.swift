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
        allocations.writer.startWaiting(allocations.seat)
        if allocations.writer.plan.isPrepared {
            isPrepared = true
            return true
        }
        let cursor = GuestOffset(slots[Int(slot)].cursor)
        switch allocations.writer.begin(cursor, length: 1) {
        case .wants, .busy: return waitForBell(slot, allocations)
        case .failed(let error):
            fail(slot, error)
            drainOrFinish(slot)
            return false
        case .ticket(let ticket):
            // Prepared a moment ago; this was only a question.
            allocations.writer.finish(ticket, isWritten: false, by: allocations.seat)
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
        var grant = allocations.writer.begin(guest, length: wanted)
        switch grant {
        case .busy, .wants:
            // Whoever changes something from here on rings; what changed before is seen now.
            allocations.writer.startWaiting(allocations.seat)
            grant = allocations.writer.begin(guest, length: wanted)
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
        _ ticket: WriteTicket, _ slot: Int32, _ wanted: UInt64, zeros: Bool, _ allocations: Allocations
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
        switch ticket.rest {
        case .nothing:
            if !zeros, goesStraight(slot, at: ticket.guest.bytes &+ inside, UInt64(op.pointee.length)) {
                return sendStraight(index, op)
            }
            bringBytes(op, allocations.buffer(index))
            sendBuffer(index, op, from: op.pointee.inside, op.pointee.length)
        case .zeros:
            memset(allocations.buffer(index), 0, Int(ticket.length))
            bringBytes(op, allocations.buffer(index))
            sendBuffer(index, op, from: 0, Int(ticket.length))
        case .old: readOldBytes(index, op, allocations.buffer(index))
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
        let piece = takePiece(for: slot, keeping: 0)
        let hasOneRange = slots[Int(slot)].base != nil
        fill(
            piece, hasOneRange ? .plain : .vector, plainFile, at: op.pointee.at, length: op.pointee.length,
            host: ticket.host.bytes &+ UInt64(op.pointee.inside))
        pieces[Int(piece)].op = index
        if !hasOneRange { pieces[Int(piece)].list = lists.take() }
        send(piece)
    }

    private func sendBuffer(_ index: Int32, _ op: UnsafeMutablePointer<Allocation>, from: Int, _ length: Int) {
        guard let ticket = op.pointee.ticket else { return }
        // There is one for each allocating write that no other may take.
        let piece = takePiece(for: op.pointee.slot, keeping: 0)
        // A data file of its own is not made longer than the disk.
        let end = Int(clamping: chain.size &- ticket.guest.bytes)
        let count = chain.layers[0].dataFile == chain.layers[0].metadataFile ? length : min(length, end &- from)
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
        sendBuffer(index, op, from: 0, Int(ticket.length))
    }

    // MARK: end

    /// The bytes are in the file, or an errno says why not.
    func endAllocation(_ index: Int32, _ error: Int32) {
        guard let allocations else { return }
        let op = allocations.records + Int(index)
        guard let ticket = op.pointee.ticket else { return }
        let slot = op.pointee.slot
        op.pointee.ticket = nil
        allocations.writer.finish(ticket, isWritten: error == 0, by: allocations.seat)
        allocations.free.give(index)
        if error != 0 { fail(slot, error) }
        let record = slots + Int(slot)
        record.pointee.pieces &-= 1
        if record.pointee.pieces == 0, record.pointee.state == .draining { finish(slot) }
        if !allocations.waiting.isEmpty { goOnWaiting(allocations) }
    }

    // MARK: waiting for others

    /// Always false, for `return waitForBell(slot)`.
    func waitForBell(_ slot: Int32, _ allocations: Allocations) -> Bool {
        slots[Int(slot)].state = .parked
        allocations.waiting.push(slot, in: slots)
        armBell(allocations)
        return false
    }

    private func armBell(_ allocations: Allocations) {
        guard !allocations.isBellArmed else { return }
        allocations.isBellArmed = true
        if !prepareBell() { deferred.push(tag(Tag.bell, 0)) }
    }

    func prepareBell() -> Bool {
        guard let allocations else { return true }
        return ring.preparePollAdd(fd: allocations.seat.bell.raw, events: 1, userData: tag(Tag.bell, 0))
    }

    func bellRang() {
        guard let allocations else { return }
        allocations.isBellArmed = false
        allocations.seat.bell.take()
        allocations.writer.stopWaiting(allocations.seat)
        goOnFlushing(allocations)
        goOnWaiting(allocations)
        if allocations.hasWaiters {
            allocations.writer.startWaiting(allocations.seat)
            armBell(allocations)
            // A flush that ended in between has not rung.
            goOnFlushing(allocations)
        }
        quiet(allocations)
    }

    /// Everybody in line has another look; who must wait on goes to its end.
    private func goOnWaiting(_ allocations: Allocations) {
        var line = allocations.waiting.takeAll()
        while !line.isEmpty { walk(line.pop(from: slots)) }
        quiet(allocations)
    }

    /// With nobody in line the bell's poll must end: the engine may be dropped.
    private func quiet(_ allocations: Allocations) {
        if allocations.isBellArmed, !allocations.hasWaiters { allocations.seat.bell.signal() }
    }

    // MARK: flushing the mapping

    /// The helper thread brings data and mapping to the disk.
    func flushMapping(_ slot: Int32, _ allocations: Allocations) {
        allocations.writer.startWaiting(allocations.seat)
        slots[Int(slot)].flushTicket = allocations.writer.requestFlush()
        allocations.flushing.push(slot, in: slots)
        armBell(allocations)
    }

    private func goOnFlushing(_ allocations: Allocations) {
        var line = allocations.flushing.takeAll()
        while !line.isEmpty {
            let slot = line.pop(from: slots)
            guard let error = allocations.writer.result(of: slots[Int(slot)].flushTicket) else {
                allocations.flushing.push(slot, in: slots)
                continue
            }
            statistics.syncs &+= 1
            if error != 0 { fail(slot, error) }
            slots[Int(slot)].state = .finished
            finished.push(slot, in: slots)
        }
    }

    // MARK: zeros

    /// Goes on with writeZeroes or discard of a mapped image from the slot's cursor.
    func walkMappedZeroes(_ slot: Int32) {
        guard let allocations else { return }
        let record = slots + Int(slot)
        record.pointee.state = .walking
        guard isPrepared || prepareToWrite(slot) else { return }
        let isDiscard = record.pointee.operation == .discard
        if isDiscard, !discards { record.pointee.cursor = record.pointee.end }
        while record.pointee.error == 0, record.pointee.cursor < record.pointee.end {
            let left = record.pointee.end &- record.pointee.cursor
            switch chain.lookup(GuestOffset(record.pointee.cursor), length: left) {
            case .extent(let extent) where extent.kind.isZero || extent.kind.isUnallocated:
                let length = min(max(extent.length, 1), left)
                let next = record.pointee.cursor &+ length
                // A discard gives up whole clusters, of which some subclusters may be zeros already.
                let whole = next & ~UInt64(allocations.clusterSize &- 1)
                if !isDiscard || length == left || whole > record.pointee.cursor {
                    record.pointee.cursor = isDiscard && length < left ? whole : next
                    continue
                }
            case .extent: break
            case .needs(let table):
                if awaitTable(table, slot) { return }
                continue
            case .damaged(let damage):
                failDamaged(slot, damage)
                continue
            }
            let mode: ZeroMode = isDiscard ? .discard : record.pointee.mayUnmap ? .unmap : .keep
            guard zeroStep(slot, left, mode, allocations) else { return }
        }
        drainOrFinish(slot)
    }

    /// One step of it. False: the slot waits.
    private func zeroStep(_ slot: Int32, _ left: UInt64, _ mode: ZeroMode, _ allocations: Allocations) -> Bool {
        let record = slots + Int(slot)
        let guest = GuestOffset(record.pointee.cursor)
        var grant = allocations.writer.zero(guest, length: left, mode)
        if grant == .busy || grant == .wants {
            allocations.writer.startWaiting(allocations.seat)
            grant = allocations.writer.zero(guest, length: left, mode)
        }
        switch grant {
        case .done(let count):
            record.pointee.cursor &+= min(max(count, 1), left)
            record.pointee.needsSync = true
            return true
        case .write(let count): return writeZeros(slot, count)
        case .busy, .wants: return waitForBell(slot, allocations)
        case .needs(var table):
            table.file = chain.layers[0].metadataFile
            return !awaitTable(table, slot)
        case .failed(let error):
            fail(slot, error)
            return true
        }
    }

    private func writeZeros(_ slot: Int32, _ count: UInt64) -> Bool {
        switch chain.lookupForWrite(GuestOffset(slots[Int(slot)].cursor), length: count) {
        case .inPlace(let extent):
            guard isSound(extent, slots + Int(slot)) else {
                fail(slot, EIO)
                return true
            }
            return issueZeroes(extent, slot)
        case .allocate(let length): return allocate(slot, length, zeros: true)
        case .needs(let table): return !awaitTable(table, slot)
        case .damaged(let damage):
            failDamaged(slot, damage)
            return true
        }
    }
}
