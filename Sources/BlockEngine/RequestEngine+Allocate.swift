// Bytes that have no cluster of their own yet. The image's writer says where they go; they go there
// straight, or together with the old bytes around them; then the mapping changes. A request that must wait stands in a line until the
// wakeup comes.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import QCOW2

extension RequestEngine {
    /// Asks whether writes may begin. False: the request waits.
    func prepareToWrite(_ request: RequestIndex) -> Bool {
        guard let allocations else { return true }
        allocations.writer.startWaiting(allocations.client)
        if allocations.writer.plan.isPrepared {
            isPrepared = true
            return true
        }
        let cursor = GuestOffset(requests[request].cursor)
        switch allocations.writer.begin(cursor, length: 1, by: allocations.client) {
        case .wants, .busy: return waitForWakeup(request, allocations)
        case .failed(let error):
            fail(request, error)
            drainOrFinish(request)
            return false
        case .ticket(let ticket):
            // Prepared a moment ago; this was only a question.
            allocations.writer.finish(ticket, isWritten: false, by: allocations.client)
        case .inPlace, .needs: break
        }
        isPrepared = allocations.writer.plan.isPrepared
        return true
    }

    /// Writes up to `length` bytes at the request's cursor into new places. False: the request is in a list and waits.
    func allocate(_ request: RequestIndex, _ length: UInt64, zeros: Bool) -> Bool {
        guard let allocations else {
            fail(request, EIO)
            return true
        }
        guard allocations.free.available > 0, transfers.lists.available > 0 else { return waitForResources(request) }
        let inCluster = requests[request].cursor & UInt64(allocations.clusterSize - 1)
        let isStraight = !zeros && goesStraight(request, at: requests[request].cursor, length)
        let wanted = isStraight ? length : min(length, UInt64(allocations.clusterSize) - inCluster)
        let guest = GuestOffset(requests[request].cursor)
        var grant = allocations.writer.begin(guest, length: wanted, by: allocations.client)
        switch grant {
        case .busy, .wants:
            // A change from here on signals this worker; what changed before is seen now.
            allocations.writer.startWaiting(allocations.client)
            grant = allocations.writer.begin(guest, length: wanted, by: allocations.client)
        default: break
        }
        switch grant {
        case .ticket(let ticket):
            requests[request].tableTries = 0
            start(ticket, request, wanted, zeros: zeros, allocations)
            return true
        case .inPlace: return true
        case .busy, .wants: return waitForWakeup(request, allocations)
        case .needs(var table):
            table.file = chain.layers[0].metadataFile
            return !awaitTable(table, request)
        case .failed(let error):
            fail(request, error)
            return true
        }
    }

    /// The request's memory can go to the disk as it is, in one transfer.
    private func goesStraight(_ request: RequestIndex, at guest: UInt64, _ length: UInt64) -> Bool {
        let file = transfers.files[plainFile]
        let at = Int(truncatingIfNeeded: guest &- requests[request].start)
        let count = Int(truncatingIfNeeded: length)
        guard count <= TransferQueue.largestTransfer else { return false }
        return file.offsetMask == 0
            || (guest | length) & file.offsetMask == 0
                && requests[request].memory.isAligned(
                    at: at, length: count, memoryMask: file.memoryMask, lengthMask: file.offsetMask)
    }

    private func start(
        _ ticket: AllocatingWrite, _ request: RequestIndex, _ wanted: UInt64, zeros: Bool, _ allocations: Allocations
    ) {
        let index = allocations.free.take()
        let inside = requests[request].cursor &- ticket.guest.bytes
        allocations.records[index].ticket = ticket
        allocations.records[index].request = request
        allocations.records[index].at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
        allocations.records[index].inside = Int(truncatingIfNeeded: inside)
        allocations.records[index].length = Int(truncatingIfNeeded: min(wanted, ticket.length &- inside))
        allocations.records[index].isZeros = zeros
        requests[request].cursor &+= UInt64(allocations.records[index].length)
        requests[request].transfers &+= 1
        requests[request].needsSync = true
        counters.allocations &+= 1
        guard !pageCache.cut.hidesCut(ticket.host.bytes, Int(truncatingIfNeeded: ticket.length)) else {
            failCut(request)
            return endAllocation(index, EIO, isAtOnce: true)
        }
        switch ticket.fill {
        case .none:
            if !zeros,
                goesStraight(request, at: ticket.guest.bytes &+ inside, UInt64(allocations.records[index].length))
            {
                return sendStraight(index, allocations)
            }
            bringBytes(index, allocations, allocations.buffer(index))
            sendBuffer(index, allocations, from: allocations.records[index].inside, allocations.records[index].length, isAtOnce: true)
        case .zero:
            memset(allocations.buffer(index), 0, Int(ticket.length))
            bringBytes(index, allocations, allocations.buffer(index))
            sendBuffer(index, allocations, from: 0, Int(ticket.length), isAtOnce: true)
        case .copy: readOldBytes(index, allocations, allocations.buffer(index))
        }
    }

    private func bringBytes(_ index: AllocationIndex, _ allocations: Allocations, _ buffer: UnsafeMutableRawPointer) {
        if allocations.records[index].isZeros {
            memset(buffer + allocations.records[index].inside, 0, allocations.records[index].length)
        } else {
            requests[allocations.records[index].request].memory.copyOut(
                buffer + allocations.records[index].inside, at: allocations.records[index].at,
                length: allocations.records[index].length)
        }
    }

    private func sendStraight(_ index: AllocationIndex, _ allocations: Allocations) {
        guard let ticket = allocations.records[index].ticket else { return }
        let request = allocations.records[index].request
        let host = ticket.host.bytes &+ UInt64(allocations.records[index].inside)
        if pageCache.writeNow(
            requests[request].memory, at: allocations.records[index].at, allocations.records[index].length, host,
            isNew: true
        ) {
            return endAllocation(index, 0, isAtOnce: true)
        }
        let transfer = transfers.take(for: request, in: requests, keeping: 0)
        let hasOneRange = requests[request].base != nil
        fill(
            transfer, hasOneRange ? .plain : .vector, plainFile, at: allocations.records[index].at,
            length: allocations.records[index].length,
            host: host)
        transfers.records[transfer].op = index
        if !hasOneRange { transfers.records[transfer].list = transfers.lists.take() }
        transfers.send(transfer, of: requests)
    }

    private func sendBuffer(
        _ index: AllocationIndex, _ allocations: Allocations, from: Int, _ length: Int,
        isAtOnce: Bool
    ) {
        guard let ticket = allocations.records[index].ticket else { return }
        // A data file of its own is not made longer than the disk.
        let end = Int(clamping: chain.size &- ticket.guest.bytes)
        let count = chain.layers[0].dataFile == chain.layers[0].metadataFile ? length : min(length, end &- from)
        if pageCache.writeBuffer(ticket.host.bytes &+ UInt64(from), allocations.buffer(index) + from, count) {
            return endAllocation(index, 0, isAtOnce: isAtOnce)
        }
        // There is one for each allocating write that no other may take.
        let transfer = transfers.take(for: allocations.records[index].request, in: requests, keeping: 0)
        fill(transfer, .buffered, plainFile, at: from, length: count, host: ticket.host.bytes &+ UInt64(from))
        transfers.records[transfer].op = index
        transfers.records[transfer].buffer = allocations.buffer(index)
        transfers.send(transfer, of: requests)
    }

    // MARK: old bytes

    /// Reads what the guest sees in the ticket's units, as one more request of this engine.
    private func readOldBytes(
        _ index: AllocationIndex, _ allocations: Allocations, _ buffer: UnsafeMutableRawPointer
    ) {
        guard let ticket = allocations.records[index].ticket else { return }
        let request = RequestIndex(requestCount &+ index.position)
        let length = min(ticket.length, chain.size &- ticket.guest.bytes)
        if length < ticket.length { memset(buffer + Int(length), 0, Int(ticket.length &- length)) }
        requests[request] = Request()
        requests[request].start = ticket.guest.bytes
        requests[request].end = ticket.guest.bytes &+ length
        requests[request].base = buffer
        requests[request].isExact = true
        requests[request].cursor = requests[request].start
        // It goes ahead of those that wait for resources: they may wait for the place of the write that it is for.
        makeReady(request, .resumed)
    }

    /// They are there: the new ones come over them, and all goes out.
    func oldBytesRead(_ request: RequestIndex) {
        guard let allocations else { return }
        let index = AllocationIndex(request.position &- requestCount)
        requests[request].state = .free
        guard requests[request].error == 0, let ticket = allocations.records[index].ticket else {
            return endAllocation(index, requests[request].error)
        }
        bringBytes(index, allocations, allocations.buffer(index))
        sendBuffer(index, allocations, from: 0, Int(ticket.length), isAtOnce: false)
    }

    // MARK: end

    /// The bytes are in the file, or an errno says why not.
    ///
    /// `isAtOnce`: in the call in which it began, so that no other request of this worker has seen that its clusters were
    /// taken, and none waits for them.
    func endAllocation(_ index: AllocationIndex, _ error: Int32, isAtOnce: Bool = false) {
        guard let allocations else { return }
        guard let ticket = allocations.records[index].ticket else { return }
        let request = allocations.records[index].request
        allocations.records[index].ticket = nil
        allocations.writer.finish(ticket, isWritten: error == 0, by: allocations.client)
        allocations.free.give(index)
        hasFreedPlace = true
        if error != 0 { fail(request, error) }
        requests[request].transfers &-= 1
        if requests[request].transfers == 0, requests[request].state == .draining { finish(request) }
        if !isAtOnce { wakeWaiting(allocations) }
    }

    // MARK: zeros

    /// Makes up to `left` bytes at the cursor zero by their entries. False: the request waits.
    func zeroMapped(_ request: RequestIndex, _ left: UInt64, _ mode: ZeroMode, _ allocations: Allocations) -> Bool {
        let guest = GuestOffset(requests[request].cursor)
        var grant = allocations.writer.zero(guest, length: left, mode)
        if grant == .busy || grant == .wants {
            allocations.writer.startWaiting(allocations.client)
            grant = allocations.writer.zero(guest, length: left, mode)
        }
        switch grant {
        case .done(let count):
            requests[request].cursor &+= min(max(count, 1), left)
            requests[request].needsSync = true
            return true
        case .write(let count): return writeZeros(request, count)
        case .busy, .wants: return waitForWakeup(request, allocations)
        case .needs(var table):
            table.file = chain.layers[0].metadataFile
            return !awaitTable(table, request)
        case .failed(let error):
            fail(request, error)
            return true
        }
    }

    private func writeZeros(_ request: RequestIndex, _ count: UInt64) -> Bool {
        switch chain.lookupForWrite(GuestOffset(requests[request].cursor), length: count) {
        case .inPlace(let extent):
            guard isSound(extent, request) else {
                fail(request, EIO)
                return true
            }
            return submitZeroes(extent, request)
        case .allocate(let length): return allocate(request, length, zeros: true)
        case .needs(let table): return !awaitTable(table, request)
        case .damaged(let damage):
            failDamaged(request, damage)
            return true
        }
    }

    // MARK: waiting for others

    /// Always false, for `return waitForWakeup(request)`.
    func waitForWakeup(_ request: RequestIndex, _ allocations: Allocations) -> Bool {
        requests[request].state = .waitingForResources
        allocations.waiting.push(request, in: requests)
        armPoll(allocations)
        return false
    }

    private func armPoll(_ allocations: Allocations) {
        guard !allocations.isPollArmed else { return }
        allocations.isPollArmed = true
        sendPoll()
    }

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
    private func wakeWaiting(_ allocations: Allocations) {
        var line = allocations.waiting.takeAll()
        while !line.isEmpty { makeReady(line.pop(from: requests), .resumed) }
    }

    /// When no request waits the eventfd's poll must end: the engine may be dropped.
    func endPoll(_ allocations: Allocations) {
        guard allocations.isPollArmed, !allocations.isPollEnding, !allocations.hasWaiters else { return }
        allocations.isPollEnding = true
        allocations.client.wakeup.signal()
    }

    // MARK: flushing the mapping

    /// The helper thread brings data and mapping to the disk.
    func flushMapping(_ request: RequestIndex, _ allocations: Allocations) {
        allocations.writer.startWaiting(allocations.client)
        requests[request].flushTicket = allocations.writer.requestFlush()
        allocations.flushing.push(request, in: requests)
        armPoll(allocations)
    }

    private func finishFlushes(_ allocations: Allocations) {
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
