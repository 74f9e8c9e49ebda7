// How a request comes in and goes out. Nearly all are one aligned extent of plain data whose table is in memory, and are
// on their way after a few comparisons; all others advance the long way.
public import DiskTypes
public import Glibc
import ImageChain
import LinuxIO

extension RequestEngine {
    /// Reads `length` bytes of the disk at `guest` into `buffer`, which stays the engine's until `nextFinished` hands
    /// the slot back.
    public func submitRead(slot: Int, guest: GuestOffset, buffer: UnsafeMutableRawPointer, length: Int) {
        let request = RequestIndex(slot)
        if open(request, guest, length) { unsafe begin(request, guest, buffer, length) }
    }

    /// Reads `length` bytes of the disk at `guest` into `count` ranges of memory, one after the other. List and memory
    /// stay the engine's until `nextFinished` hands the slot back.
    public func submitRead(slot: Int, guest: GuestOffset, iovecs: UnsafePointer<iovec>, count: Int, length: Int) {
        let request = RequestIndex(slot)
        guard open(request, guest, length) else { return }
        unsafe transfer(request, guest, iovecs, count, length)
    }

    /// Takes in a request as a door has checked it. Its list and memory stay the engine's until `nextFinished` hands
    /// the slot back.
    @inline(__always)
    public func submit(_ asked: BlockRequest) {
        let request = RequestIndex(Int(asked.slot))
        let length = Int(truncatingIfNeeded: asked.length)
        guard open(request, asked.guest, length) else { return }
        requests[request].operation = asked.operation
        guard asked.operation == .read || chain.isWritable || asked.operation == .flush else {
            return refuse(request, EROFS)
        }
        if asked.operation == .read || asked.operation == .write, let list = unsafe asked.iovecs {
            return unsafe transfer(
                request, asked.guest, list, Int(asked.iovecCount), length)
        }
        requests[request].mayUnmap = asked.mayUnmap
        advanceNow(request)
    }

    @inline(__always) private func transfer(
        _ request: RequestIndex, _ guest: GuestOffset, _ list: UnsafePointer<iovec>, _ count: Int, _ length: Int
    ) {
        if count == 1, let base = unsafe list.pointee.iov_base, unsafe list.pointee.iov_len >= length {
            return unsafe begin(request, guest, base, length)
        }
        unsafe transferList(request, list, count, length)
    }

    @inline(never) private func transferList(
        _ request: RequestIndex, _ list: UnsafePointer<iovec>, _ count: Int, _ length: Int
    ) {
        guard count <= maxIovecs, maxIovecs > 1 else { return refuse(request, EINVAL) }
        var room = 0
        for i in 0..<max(count, 0) {
            let (sum, overflow) = unsafe room.addingReportingOverflow(list[i].iov_len)
            guard !overflow, unsafe list[i].iov_len >= 0, unsafe list[i].iov_len == 0 || list[i].iov_base != nil else {
                return refuse(request, EINVAL)
            }
            room = sum
        }
        guard room >= length else { return refuse(request, EINVAL) }
        unsafe requests[request].base = nil
        unsafe requests[request].iovecs = unsafe UnsafeMutablePointer(mutating: list)
        requests[request].iovecCount = Int32(truncatingIfNeeded: count)
        requests[request].isExact = room == length
        advanceNow(request)
    }

    /// Takes the request into use; false when the request is finished already because it makes no sense.
    @inline(__always) private func open(_ request: RequestIndex, _ guest: GuestOffset, _ length: Int) -> Bool {
        precondition(request.exists && request.position < requestCount, "no such request")
        precondition(requests[request].state == .free, "the request is in flight")
        outstanding &+= 1
        counters.requests &+= 1
        requests[request].start = guest.bytes
        requests[request].end = guest.bytes &+ UInt64(truncatingIfNeeded: length)
        requests[request].operation = .read
        requests[request].transfers = 0
        requests[request].error = 0
        requests[request].hasDamage = false
        requests[request].needsSync = false
        if let counts { requests[request].parity = counts.begin() }
        let diskSize = chain.size
        guard length >= 0, length <= Int(Int32.max), guest.bytes <= diskSize,
            UInt64(length) <= diskSize &- guest.bytes
        else {
            refuse(request, EINVAL)
            return false
        }
        return true
    }

    /// Starts a transfer with one range of memory. Nearly all are one aligned extent of plain data whose table is in
    /// memory: the short way is theirs.
    @inline(__always)
    private func begin(_ request: RequestIndex, _ guest: GuestOffset, _ base: UnsafeMutableRawPointer, _ length: Int) {
        unsafe requests[request].base = unsafe base
        guard waitingForResources.isEmpty, length > 0 else { return advanceNow(request) }
        let isWrite = requests[request].operation == .write
        if isWrite, !isPrepared { return advanceNow(request) }
        let bytes = UInt64(truncatingIfNeeded: length)
        let host = isWrite ? chain.overwritableOffset(guest, length: bytes) : chain.plainOffset(guest, length: bytes)
        guard let host, unsafe transfers.isStraight(plainFile, host.bytes, base, length) else {
            return advanceNow(request)
        }
        requests[request].state = .draining
        if isWrite {
            switch unsafe pageCache.write(RequestMemory(base: base), at: 0, length, plainFile, host.bytes) {
            case .done: return finish(request)
            case .fileWasCut:
                failCut(request)
                return finish(request)
            case .absent: break
            }
        } else {
            switch unsafe pageCache.read(host.bytes, base, length, request) {
            case .done: return finish(request)
            case .queued:
                if pageCache.isQueueFull { copyQueued() }
                return
            case .absent: break
            }
        }
        merge(request, host: host.bytes, length: length, isWrite: isWrite)
    }

    // MARK: once a pass

    /// Does what was put off until now, because it is cheaper for many requests at once: once a pass, after the last
    /// request was taken in and before `nextFinished` and the ring's next submission.
    public func submit() {
        if !transfers.backlog.isEmpty { sendBacklog() }
        if merger.count > 0 { sendMerged() }
        if pageCache.hasQueued { copyQueued() }
        if !ready.isEmpty { advanceReady(resumesWaiting: false) }
    }

    /// Does the reads that wait for each other.
    @inline(never) func copyQueued() {
        var lost = IndexQueue<Request>()
        pageCache.copyQueued(done: &finished, lost: &lost, in: requests)
        // Such a request asks again where its bytes are, and gets the reason.
        while !lost.isEmpty { beginAdvance(lost.pop(from: requests)) }
    }

    /// The next request that is done, whose slot is free again from here on; nil when there is none now.
    public func nextFinished() -> Finished? {
        let request = finished.pop(from: requests)
        guard request.exists else { return nil }
        requests[request].state = .free
        outstanding &-= 1
        if let counts { counts.end(requests[request].parity) }
        if requests[request].error == 0 {
            counters.bytes &+= requests[request].end &- requests[request].start
            return Finished(slot: UInt32(bitPattern: request.raw), error: 0, damage: nil)
        }
        counters.errors &+= 1
        let damage: MapDamage? = requests[request].hasDamage ? requests[request].damage : nil
        return Finished(
            slot: UInt32(bitPattern: request.raw), error: requests[request].error, damage: damage)
    }

    // MARK: neighbours

    /// Gathers a request that is one aligned range of the plain file; it is sent by `sendMerged` at the latest.
    @inline(__always) private func merge(_ request: RequestIndex, host: UInt64, length: Int, isWrite: Bool) {
        if merger.add(request, host: host, length: length, isWrite: isWrite) { return }
        sendMerged()
        _ = merger.add(request, host: host, length: length, isWrite: isWrite)
    }

    /// Sends what was gathered.
    @inline(__always) func sendMerged() {
        let host = merger.host
        let length = merger.length
        let count = merger.take()
        guard count == 1 else { return sendMerged(count, host, length) }
        let request = merger[0]
        let sent = unsafe sendStraight(
            plainFile, host, into: requests[request].base.unsafelyUnwrapped, at: 0, length, request)
        if !sent { beginAdvance(request) }
    }

    @inline(never) private func sendMerged(_ count: Int, _ host: UInt64, _ length: Int) {
        guard count > 0 else { return }
        let list = transfers.lists.take()
        let transfer = list.exists ? transfers.take(for: merger[0], in: requests) : .none
        guard transfer.exists else {
            if list.exists { transfers.lists.give(list) }
            for i in 0..<count { beginAdvance(merger[i]) }
            return
        }
        let ranges = unsafe transfers.lists[list]
        for i in 0..<count {
            let request = merger[i]
            unsafe ranges[i] = unsafe iovec(
                iov_base: requests[request].base,
                iov_len: Int(truncatingIfNeeded: requests[request].end &- requests[request].start))
            if i > 0 { requests[request].transfers &+= 1 }
            requests[request].next = i &+ 1 < count ? merger[i &+ 1] : .none
        }
        fill(transfer, .merged, plainFile, at: count, length: length, host: host)
        transfers.records[transfer].list = list
        counters.merged &+= UInt64(count)
        transfers.send(transfer, of: requests)
    }

    /// Sends one transfer straight between the file and the caller's memory at byte `at` of the request, if alignment
    /// allows. False: nothing was done.
    @inline(__always) func sendStraight(
        _ file: UInt16, _ host: UInt64, into base: UnsafeMutableRawPointer, at: Int, _ length: Int,
        _ request: RequestIndex
    ) -> Bool {
        guard unsafe transfers.isStraight(file, host, base + at, length) else { return false }
        let transfer = transfers.take(for: request, in: requests)
        guard transfer.exists else { return false }
        fill(transfer, .plain, file, at: at, length: length, host: host)
        let mark = transfers.tag(CompletionTag.transfer, transfer)
        let sent = unsafe transfers.prepareRange(
            file, base + at, length, host, isRead: requests[request].operation == .read, mark)
        if !sent { transfers.backlog.push(mark) }
        return true
    }

    /// What a transfer moves.
    @inline(__always) func fill(
        _ transfer: TransferIndex, _ kind: Transfer.Kind, _ file: UInt16, at: Int, length: Int, host: UInt64
    ) {
        transfers.fill(transfer, kind, file, at: at, length: length, host: host)
        counters.dataTransfers &+= 1
    }

    // MARK: the long way

    /// Starts a request the long way, behind those that wait for resources already. `after`: bytes that are done.
    func beginAdvance(_ request: RequestIndex, after done: UInt64 = 0) {
        requests[request].cursor = requests[request].start &+ done
        requests[request].tableTries = 0
        if waitingForResources.isEmpty { makeReady(request, .ready) } else { waitForResources(request) }
    }

    /// The same for a request that is just taken in.
    @inline(never) private func advanceNow(_ request: RequestIndex) {
        beginAdvance(request)
        advanceReady(resumesWaiting: false)
    }

    private func refuse(_ request: RequestIndex, _ error: Int32) {
        requests[request].error = error
        requests[request].state = .finished
        finished.push(request, in: requests)
    }
}
