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
    func prepareToWrite(_ request: Int32) -> Bool {
        guard let allocations else { return true }
        allocations.writer.startWaiting(allocations.client)
        if allocations.writer.plan.isPrepared {
            isPrepared = true
            return true
        }
        let cursor = GuestOffset(requests[Int(request)].cursor)
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
    func allocate(_ request: Int32, _ length: UInt64, zeros: Bool) -> Bool {
        guard let allocations else {
            fail(request, EIO)
            return true
        }
        let record = requests + Int(request)
        guard allocations.free.available > 0, lists.available > 0 else { return waitForResources(request) }
        let inCluster = record.pointee.cursor & UInt64(allocations.clusterSize - 1)
        let isStraight = !zeros && goesStraight(request, at: record.pointee.cursor, length)
        let wanted = isStraight ? length : min(length, UInt64(allocations.clusterSize) - inCluster)
        let guest = GuestOffset(record.pointee.cursor)
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
            record.pointee.tableTries = 0
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
    private func goesStraight(_ request: Int32, at guest: UInt64, _ length: UInt64) -> Bool {
        let file = files[Int(plainFile)]
        let at = Int(truncatingIfNeeded: guest &- requests[Int(request)].start)
        let count = Int(truncatingIfNeeded: length)
        guard count <= RequestEngine.largestRead else { return false }
        return file.offsetMask == 0
            || (guest | length) & file.offsetMask == 0
                && memory(of: request).isAligned(
                    at: at, length: count, memoryMask: file.memoryMask, lengthMask: file.offsetMask)
    }

    private func start(
        _ ticket: AllocatingWrite, _ request: Int32, _ wanted: UInt64, zeros: Bool, _ allocations: Allocations
    ) {
        let index = allocations.free.take()
        let record = requests + Int(request)
        let op = allocations.records + Int(index)
        let inside = record.pointee.cursor &- ticket.guest.bytes
        op.pointee.ticket = ticket
        op.pointee.request = request
        op.pointee.at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
        op.pointee.inside = Int(truncatingIfNeeded: inside)
        op.pointee.length = Int(truncatingIfNeeded: min(wanted, ticket.length &- inside))
        op.pointee.isZeros = zeros
        record.pointee.cursor &+= UInt64(op.pointee.length)
        record.pointee.transfers &+= 1
        record.pointee.needsSync = true
        statistics.allocations &+= 1
        guard !hidesCut(ticket.host.bytes, Int(truncatingIfNeeded: ticket.length)) else {
            failCut(request)
            return endAllocation(index, EIO, .atOnce)
        }
        switch ticket.fill {
        case .none:
            if !zeros, goesStraight(request, at: ticket.guest.bytes &+ inside, UInt64(op.pointee.length)) {
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

    private func bringBytes(_ op: UnsafeMutablePointer<AllocatingRequest>, _ buffer: UnsafeMutableRawPointer) {
        if op.pointee.isZeros {
            memset(buffer + op.pointee.inside, 0, op.pointee.length)
        } else {
            memory(of: op.pointee.request).copyOut(
                buffer + op.pointee.inside, at: op.pointee.at, length: op.pointee.length)
        }
    }

    private func sendStraight(_ index: Int32, _ op: UnsafeMutablePointer<AllocatingRequest>) {
        guard let ticket = op.pointee.ticket else { return }
        let request = op.pointee.request
        let host = ticket.host.bytes &+ UInt64(op.pointee.inside)
        if writeNow(request, at: op.pointee.at, op.pointee.length, host, isNew: true) {
            return endAllocation(index, 0, .atOnce)
        }
        let transfer = takeTransfer(for: request, keeping: 0)
        let hasOneRange = requests[Int(request)].base != nil
        fill(
            transfer, hasOneRange ? .plain : .vector, plainFile, at: op.pointee.at, length: op.pointee.length,
            host: host)
        transfers[Int(transfer)].op = index
        if !hasOneRange { transfers[Int(transfer)].list = lists.take() }
        send(transfer)
    }

    private func sendBuffer(
        _ index: Int32, _ op: UnsafeMutablePointer<AllocatingRequest>, from: Int, _ length: Int,
        _ way: AllocationEnd = .atOnce
    ) {
        guard let ticket = op.pointee.ticket else { return }
        // A data file of its own is not made longer than the disk.
        let end = Int(clamping: chain.size &- ticket.guest.bytes)
        let count = chain.layers[0].dataFile == chain.layers[0].metadataFile ? length : min(length, end &- from)
        if writeNow(ticket.host.bytes &+ UInt64(from), allocationBuffer(index) + from, count, isNew: true) {
            return endAllocation(index, 0, way)
        }
        // There is one for each allocating write that no other may take.
        let transfer = takeTransfer(for: op.pointee.request, keeping: 0)
        fill(transfer, .buffered, plainFile, at: from, length: count, host: ticket.host.bytes &+ UInt64(from))
        transfers[Int(transfer)].op = index
        send(transfer)
    }

    func allocationBuffer(_ index: Int32) -> UnsafeMutableRawPointer {
        allocations?.buffer(index) ?? zeros
    }

    // MARK: old bytes

    /// Reads what the guest sees in the ticket's units, as one more request of this engine.
    private func readOldBytes(
        _ index: Int32, _ op: UnsafeMutablePointer<AllocatingRequest>, _ buffer: UnsafeMutableRawPointer
    ) {
        guard let ticket = op.pointee.ticket else { return }
        let request = Int32(truncatingIfNeeded: requestCount) &+ index
        let record = requests + Int(request)
        let length = min(ticket.length, chain.size &- ticket.guest.bytes)
        if length < ticket.length { memset(buffer + Int(length), 0, Int(ticket.length &- length)) }
        record.pointee = Request()
        record.pointee.start = ticket.guest.bytes
        record.pointee.end = ticket.guest.bytes &+ length
        record.pointee.base = buffer
        record.pointee.isExact = true
        beginAdvance(request)
    }

    /// They are there: the new ones come over them, and all goes out.
    func oldBytesRead(_ request: Int32) {
        guard let allocations else { return }
        let index = request &- Int32(truncatingIfNeeded: requestCount)
        let op = allocations.records + Int(index)
        requests[Int(request)].state = .free
        guard requests[Int(request)].error == 0, let ticket = op.pointee.ticket else {
            return endAllocation(index, requests[Int(request)].error)
        }
        bringBytes(op, allocations.buffer(index))
        sendBuffer(index, op, from: 0, Int(ticket.length), .withinAdvance)
    }

    // MARK: end

    /// The bytes are in the file, or an errno says why not.
    func endAllocation(_ index: Int32, _ error: Int32, _ way: AllocationEnd = .later) {
        guard let allocations else { return }
        let op = allocations.records + Int(index)
        guard let ticket = op.pointee.ticket else { return }
        let request = op.pointee.request
        op.pointee.ticket = nil
        allocations.writer.finish(ticket, isWritten: error == 0, by: allocations.client)
        allocations.free.give(index)
        if error != 0 { fail(request, error) }
        let record = requests + Int(request)
        record.pointee.transfers &-= 1
        if record.pointee.transfers == 0, record.pointee.state == .draining { finish(request) }
        guard !allocations.waiting.isEmpty else { return }
        switch way {
        case .atOnce: break
        case .withinAdvance: allocations.client.wakeup.signal()
        case .later: advanceWaiting(allocations)
        }
    }
}

/// When an allocating write ends, and so who may wait for its clusters.
enum AllocationEnd {
    /// In the call in which it began: no other request of this worker has seen that its clusters were taken.
    case atOnce
    /// Later, but perhaps within the advance of another request: what waits must come after that.
    case withinAdvance
    /// As a completion of its own.
    case later
}
