// Bytes that have no cluster of their own yet. The image's writer says where they go; they go there straight, or together
// with the old bytes around them; then the mapping changes. A request that needs what another worker or the writer's helper
// has waits in a line: they signal an eventfd, which the ring polls as long as a request waits.
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
        case .granted(let granted):
            // Prepared a moment ago; this was only a question.
            allocations.writer.finish(granted, isWritten: false, by: allocations.client)
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
        guard allocations.canBegin else { return waitForPlace(request, allocations) }
        guard transfers.lists.available > 0 else { return waitForResources(request) }
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
        case .granted(let granted):
            requests[request].tableTries = 0
            start(granted, request, wanted, zeros: zeros, allocations)
            return true
        case .inPlace: return true
        case .busy, .wants: return waitForWakeup(request, allocations)
        case .needs(let table): return !awaitOwnTable(table, request)
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
        _ granted: AllocatingWrite, _ request: RequestIndex, _ wanted: UInt64, zeros: Bool,
        _ allocations: AllocatingWrites
    ) {
        let cursor = requests[request].cursor
        let index = allocations.begin(
            granted, request, guest: cursor, at: Int(truncatingIfNeeded: cursor &- requests[request].start),
            wanted: wanted, isZeros: zeros)
        let length = UInt64(allocations.length(of: index))
        requests[request].cursor &+= length
        requests[request].transfers &+= 1
        requests[request].needsSync = true
        counters.allocations &+= 1
        guard !pageCache.cut.hidesCut(granted.host.bytes, Int(truncatingIfNeeded: granted.length)) else {
            failCut(request)
            return link(index, EIO)
        }
        let isStraight = granted.fill == .none && !zeros && goesStraight(request, at: cursor, length)
        carryOut(
            allocations.firstStep(index, requests[request].memory, isStraight: isStraight), index, allocations)
    }

    // MARK: states of an allocating write

    /// Does what an allocating write asks for next.
    private func carryOut(_ step: AllocationStep, _ index: AllocationIndex, _ allocations: AllocatingWrites) {
        switch step {
        case .readOld(let guest, let length, let buffer):
            unsafe readOld(index, guest, length, into: buffer)
        case _ where pageCache.cut.isCut:
            failCut(allocations.request(of: index))
            link(index, EIO)
        case .writeMemory(let at, let length, let host):
            writeMemory(index, allocations, at, length, host)
        case .writeBuffer(let buffer, let length, let host):
            if unsafe pageCache.writeBuffer(host, buffer, length) { return link(index, 0) }
            let transfer = takeReserved(index, allocations)
            fill(transfer, .buffered, plainFile, at: 0, length: length, host: host)
            unsafe transfers.records[transfer].buffer = unsafe buffer
            transfers.send(transfer, of: requests)
        }
    }

    /// readingOld: what the guest sees is read as any other request is, which belongs to the write instead of the door.
    private func readOld(
        _ index: AllocationIndex, _ guest: GuestOffset, _ length: UInt64, into buffer: UnsafeMutableRawPointer
    ) {
        let reader = RequestIndex(requestCount &+ index.position)
        requests[reader] = Request()
        requests[reader].start = guest.bytes
        requests[reader].end = guest.bytes &+ length
        unsafe requests[reader].base = unsafe buffer
        requests[reader].isExact = true
        requests[reader].owner = index
        requests[reader].cursor = requests[reader].start
        // It goes ahead of those that wait for resources: a write that holds clusters is to end soon.
        makeReady(reader, .resumed)
    }

    /// readingOld -> writing.
    @inline(never) func oldBytesRead(_ index: AllocationIndex, by reader: RequestIndex) {
        guard let allocations else { return }
        requests[reader].state = .free
        guard requests[reader].error == 0 else { return link(index, requests[reader].error) }
        let memory = requests[allocations.request(of: index)].memory
        guard let step = allocations.oldBytesRead(index, memory) else { return }
        carryOut(step, index, allocations)
    }

    /// writing: from the request's memory, as it is.
    private func writeMemory(
        _ index: AllocationIndex, _ allocations: AllocatingWrites, _ at: Int, _ length: Int, _ host: UInt64
    ) {
        let memory = requests[allocations.request(of: index)].memory
        if pageCache.writeNow(memory, at: at, length, host, isNew: true) { return link(index, 0) }
        guard !pageCache.cut.isCut else {
            failCut(allocations.request(of: index))
            return link(index, EIO)
        }
        let transfer = takeReserved(index, allocations)
        unsafe fill(transfer, memory.base != nil ? .plain : .vector, plainFile, at: at, length: length, host: host)
        if unsafe memory.base == nil { transfers.records[transfer].list = transfers.lists.take() }
        transfers.send(transfer, of: requests)
    }

    /// A transfer for an allocating write: there is one for each that no other request may take.
    private func takeReserved(_ index: AllocationIndex, _ allocations: AllocatingWrites) -> TransferIndex {
        let transfer = transfers.take(for: allocations.request(of: index), in: requests, keeping: 0)
        transfers.records[transfer].allocation = index
        allocations.isSent(index)
        return transfer
    }

    /// writing -> linking: the bytes are in the file, or an errno says why not.
    func link(_ index: AllocationIndex, _ error: Int32) {
        guard let allocations else { return }
        let request = allocations.request(of: index)
        let mayBeAwaited = allocations.link(index, isWritten: error == 0)
        if error != 0 { fail(request, error) }
        requests[request].transfers &-= 1
        if requests[request].transfers == 0, requests[request].state == .draining { finish(request) }
        if mayBeAwaited { wakeWaiting(allocations) }
    }

    // MARK: zeros

    /// Makes up to `left` bytes at the cursor zero by their entries. False: the request waits.
    func zeroMapped(_ request: RequestIndex, _ left: UInt64, _ mode: ZeroMode, _ allocations: AllocatingWrites) -> Bool
    {
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
        case .needs(let table): return !awaitOwnTable(table, request)
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

    /// As `awaitTable`, for a table of the image that is written: its writer does not know the chain's numbers of files.
    private func awaitOwnTable(_ table: TableRead, _ request: RequestIndex) -> Bool {
        var table = table
        table.file = chain.layers[0].metadataFile
        return awaitTable(table, request)
    }

    /// Always false, to be returned.
    private func waitForPlace(_ request: RequestIndex, _ allocations: AllocatingWrites) -> Bool {
        counters.resourceWaits &+= 1
        requests[request].state = .waitingForPlace
        allocations.waitingForPlace.push(request, in: requests)
        return false
    }

    /// Always false, to be returned.
    func waitForWakeup(_ request: RequestIndex, _ allocations: AllocatingWrites) -> Bool {
        requests[request].state = .waitingForWakeup
        allocations.waiting.push(request, in: requests)
        armPoll(allocations)
        return false
    }

    func armPoll(_ allocations: AllocatingWrites) {
        guard !allocations.isPollArmed else { return }
        allocations.isPollArmed = true
        sendPoll()
    }

    // MARK: flushing the mapping

    /// The helper thread brings data and mapping to the disk.
    func flushMapping(_ request: RequestIndex, _ allocations: AllocatingWrites) {
        allocations.writer.startWaiting(allocations.client)
        requests[request].flushTicket = allocations.writer.requestFlush()
        allocations.flushing.push(request, in: requests)
        armPoll(allocations)
    }
}
