// A request becomes transfers by asking the chain where its bytes are, extent by extent. This is that loop: it submits what
// it can, and where it cannot go on (a table is missing, a pool is empty) it leaves the request in the one list that will
// wake it.
import DiskTypes
import Glibc
import LinuxIO
import QCOW2

extension RequestEngine {
    /// The request advances in the loop below. `state`: `.ready` or `.resumed`.
    @inline(__always) func makeReady(_ request: RequestIndex, _ state: Request.State) {
        requests[request].state = state
        ready.push(request, in: requests)
    }

    /// The one loop in which requests advance, so that none advances within another.
    ///
    /// Writes that wait for a place go on as long as there is one. They have a line of their own: a place is held by writes
    /// whose old bytes are read by requests that may wait for resources, and these must not wait for that place.
    ///
    /// `resumesWaiting`: something came back. Then the first that waits for resources goes on, and the next, until one
    /// has to wait for resources again. One that does goes to the end of the line, so that the others come first.
    @inline(never) func advanceReady(resumesWaiting: Bool) {
        var resumes = resumesWaiting
        while true {
            let request = ready.pop(from: requests)
            if request.exists {
                if requests[request].state == .ready, !waitingForResources.isEmpty {
                    waitForResources(request)
                } else {
                    advance(request)
                }
                continue
            }
            if mayBeginAllocating, let allocations {
                advance(allocations.waitingForPlace.pop(from: requests))
                continue
            }
            guard resumes, !waitingForResources.isEmpty, transfers.canTake else { break }
            let waiting = waitingForResources.pop(from: requests)
            advance(waiting)
            resumes = requests[waiting].state != .waitingForResources
        }
        if let allocations { endPoll(allocations) }
    }

    /// Whether a write that waits for a place has one.
    var mayBeginAllocating: Bool { allocations.map { $0.canBegin && !$0.waitingForPlace.isEmpty } ?? false }

    /// Goes on with a request from its cursor.
    private func advance(_ request: RequestIndex) {
        switch requests[request].operation {
        case .read: advanceRead(request)
        case .write: advanceWrite(request)
        case .writeZeroes, .discard:
            if let allocations { advanceMappedZeroes(request, allocations) } else { advanceZeroes(request) }
        case .flush: flush(request)
        }
    }

    // MARK: reads

    private func advanceRead(_ request: RequestIndex) {
        guard isUnfinished(request) else { return drainOrFinish(request) }
        requests[request].state = .advancing
        var answer = chain.lookup(cursor(request), length: left(request))
        while true {
            guard case .extent(var extent) = answer else {
                guard handle(answer, request) else { return }
                break
            }
            guard extent.length > 0, extent.length <= left(request) else {
                // No map answers so; were it to, this is where it stops.
                fail(request, EIO)
                break
            }
            if extent.length < left(request) { answer = grow(&extent, upTo: requests[request].end) }
            guard submitExtent(extent, request) else { return }
            guard isUnfinished(request) else { break }
        }
        drainOrFinish(request)
    }

    /// Grows `extent` by what follows it on guest and host; the answer for what comes after.
    private func grow(_ extent: inout Extent, upTo end: UInt64) -> MapAnswer {
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

    /// Work for one extent at the cursor, which moves past what was submitted. False: the request is in a list and waits.
    private func submitExtent(_ extent: Extent, _ request: RequestIndex) -> Bool {
        requests[request].tableTries = 0
        switch extent.kind {
        case .data:
            return submitData(extent, request)
        case .compressed:
            return submitCompressed(extent, request)
        case .zero, .zeroAllocated, .unallocated, .unallocatedReserved:
            let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
            requests[request].memory.zero(at: at, length: Int(truncatingIfNeeded: extent.length))
            requests[request].cursor &+= extent.length
            return true
        }
    }

    /// An answer that is no extent. False: the request waits.
    private func handle(_ answer: MapAnswer, _ request: RequestIndex) -> Bool {
        switch answer {
        case .needs(let table): return !awaitTable(table, request)
        case .damaged(let damage): failDamaged(request, damage)
        case .extent: break
        }
        return true
    }

    // MARK: writes

    private func advanceWrite(_ request: RequestIndex) {
        requests[request].state = .advancing
        guard isPrepared || prepareToWrite(request) else { return }
        while isUnfinished(request) {
            switch chain.lookupForWrite(cursor(request), length: left(request)) {
            case .inPlace(let extent):
                guard isSound(extent, request) else {
                    fail(request, EIO)
                    break
                }
                requests[request].tableTries = 0
                guard submitData(extent, request) else { return }
            case .allocate(let length):
                guard allocate(request, length, zeros: false) else { return }
            case .needs(let table):
                if awaitTable(table, request) { return }
            case .damaged(let damage):
                failDamaged(request, damage)
            }
        }
        drainOrFinish(request)
    }

    /// Zeros and discards where the mapping never changes: the file system makes them.
    private func advanceZeroes(_ request: RequestIndex) {
        requests[request].state = .advancing
        while isUnfinished(request) {
            guard let extent = zeroStep(request) else {
                if requests[request].state != .advancing { return }
                continue
            }
            guard submitZeroes(extent, request) else { return }
        }
        drainOrFinish(request)
    }

    /// The next extent that must be made zero in place. Nil: nothing to do for the step, or the request waits or failed.
    private func zeroStep(_ request: RequestIndex) -> Extent? {
        let left = left(request)
        // What reads as zeros already stays as it is.
        switch chain.lookup(cursor(request), length: left) {
        case .extent(let extent) where extent.kind.isZero || extent.kind.isUnallocated:
            requests[request].cursor &+= min(max(extent.length, 1), left)
            return nil
        case .extent: break
        case .needs(let table):
            _ = awaitTable(table, request)
            return nil
        case .damaged(let damage):
            failDamaged(request, damage)
            return nil
        }
        switch chain.lookupForWrite(cursor(request), length: left) {
        case .inPlace(let extent) where isSound(extent, request): return extent
        case .inPlace: fail(request, EIO)
        // Bytes that need not be kept may as well stay.
        case .allocate(let length) where requests[request].operation == .discard:
            requests[request].cursor &+= min(max(length, 1), left)
        // Only mapped images allocate, and their zeros go another way.
        case .allocate: fail(request, EIO)
        case .needs(let table): _ = awaitTable(table, request)
        case .damaged(let damage): failDamaged(request, damage)
        }
        return nil
    }

    /// Zeros and discards of a mapped image change entries and move no bytes, where the format can say it; what it cannot
    /// say is written.
    private func advanceMappedZeroes(_ request: RequestIndex, _ allocations: AllocatingWrites) {
        requests[request].state = .advancing
        guard isPrepared || prepareToWrite(request) else { return }
        let isDiscard = requests[request].operation == .discard
        if isDiscard, !discards { requests[request].cursor = requests[request].end }
        while isUnfinished(request) {
            let left = left(request)
            switch chain.lookup(cursor(request), length: left) {
            case .extent(let extent) where extent.kind.isZero || extent.kind.isUnallocated:
                let length = min(max(extent.length, 1), left)
                let next = requests[request].cursor &+ length
                // A discard gives up whole clusters, of which some subclusters may be zeros already.
                let whole = next & ~UInt64(allocations.clusterSize &- 1)
                if !isDiscard || length == left || whole > requests[request].cursor {
                    requests[request].cursor = isDiscard && length < left ? whole : next
                    continue
                }
            case .extent: break
            case .needs(let table):
                if awaitTable(table, request) { return }
                continue
            case .damaged(let damage):
                failDamaged(request, damage)
                continue
            }
            let mode: ZeroMode = isDiscard ? .discard : requests[request].mayUnmap ? .unmap : .keep
            guard zeroMapped(request, left, mode, allocations) else { return }
        }
        drainOrFinish(request)
    }

    // MARK: the range that is left

    @inline(__always) private func cursor(_ request: RequestIndex) -> GuestOffset {
        GuestOffset(requests[request].cursor)
    }
    /// Bytes.
    @inline(__always) private func left(_ request: RequestIndex) -> UInt64 {
        requests[request].end &- requests[request].cursor
    }
    @inline(__always) private func isUnfinished(_ request: RequestIndex) -> Bool {
        requests[request].error == 0 && requests[request].cursor < requests[request].end
    }
    func isSound(_ extent: Extent, _ request: RequestIndex) -> Bool {
        extent.length > 0 && extent.length <= left(request) && Int(extent.file) < transfers.files.count
    }

    // MARK: ends

    /// Ends the advance of a request with an error; the first one stays. Transfers in flight still come back.
    func fail(_ request: RequestIndex, _ error: Int32) {
        if requests[request].error == 0 { requests[request].error = error }
    }

    /// The same for a range whose mapping, or whose file, has lost bytes.
    func failDamaged(_ request: RequestIndex, _ damage: MapDamage) {
        if damage.reason == .overlapsMetadata, damage.layer == 0, requests[request].operation != .read {
            allocations?.writer.foundCorruption()
        }
        requests[request].damage = damage
        requests[request].hasDamage = true
        fail(request, EIO)
    }

    /// A write to a file that was cut: another try would make it longer again.
    @inline(never) func failCut(_ request: RequestIndex) {
        let start = GuestOffset(requests[request].start)
        failDamaged(
            request,
            MapDamage(
                reason: .fileWasCut, guest: start, length: requests[request].end &- start.bytes,
                table: HostOffset(0)))
    }

    /// Nothing more to submit: done once all transfers are back.
    @inline(__always) func drainOrFinish(_ request: RequestIndex) {
        if requests[request].transfers == 0 { finish(request) } else { requests[request].state = .draining }
    }

    /// Everything was done, well or not. Changes that must be durable have one more step.
    @inline(__always) func finish(_ request: RequestIndex) {
        if writeThrough, !ignoresFlushes, requests[request].error == 0,
            requests[request].operation == .writeZeroes || requests[request].needsSync
        {
            return flush(request)
        }
        answer(request)
    }

    /// The request's owner gets it back.
    @inline(__always) func answer(_ request: RequestIndex) {
        guard !requests[request].owner.exists else { return oldBytesRead(requests[request].owner, by: request) }
        requests[request].state = .finished
        finished.push(request, in: requests)
    }

    // MARK: waiting for resources

    /// Puts the request at the end of the line for transfers and buffers. Always false, to be returned.
    @discardableResult func waitForResources(_ request: RequestIndex) -> Bool {
        counters.resourceWaits &+= 1
        requests[request].state = .waitingForResources
        waitingForResources.push(request, in: requests)
        return false
    }
}
