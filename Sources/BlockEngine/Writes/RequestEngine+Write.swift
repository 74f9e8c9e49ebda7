// Bytes on their way into the image. Only what has a cluster of its own is overwritten; anything
// else fails, and says so. Zeros and discards go by the file system's own means where it has them.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// Goes on with a write from its cursor.
    func advanceWrite(_ request: RequestIndex) {
        requests[request].state = .advancing
        guard isPrepared || prepareToWrite(request) else { return }
        while requests[request].error == 0, requests[request].cursor < requests[request].end {
            switch chain.lookupForWrite(
                GuestOffset(requests[request].cursor), length: requests[request].end &- requests[request].cursor)
            {
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

    /// Goes on with writeZeroes or discard from its cursor.
    func advanceZeroes(_ request: RequestIndex) {
        if allocations != nil { return advanceMappedZeroes(request) }
        requests[request].state = .advancing
        while requests[request].error == 0, requests[request].cursor < requests[request].end {
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
        let left = requests[request].end &- requests[request].cursor
        // What reads as zeros already stays as it is.
        switch chain.lookup(GuestOffset(requests[request].cursor), length: left) {
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
        switch chain.lookupForWrite(GuestOffset(requests[request].cursor), length: left) {
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

    /// Starts to make an extent zero. False: the request waits for resources.
    func submitZeroes(_ extent: Extent, _ request: RequestIndex) -> Bool {
        let isDiscard = requests[request].operation == .discard
        guard let mode = firstMode(isDiscard: isDiscard, mayUnmap: requests[request].mayUnmap) else {
            requests[request].cursor &+= extent.length
            return true
        }
        guard !pageCache.cut.hidesCut(extent.host.bytes, Int(truncatingIfNeeded: extent.length)) else {
            failCut(request)
            return true
        }
        let transfer = takeTransfer(for: request)
        guard transfer.exists else { return waitForResources(request) }
        let at = Int(truncatingIfNeeded: requests[request].cursor &- requests[request].start)
        fill(
            transfer, mode == 0 ? .zeros : .allocation, extent.file, at: at,
            length: Int(truncatingIfNeeded: extent.length),
            host: extent.host.bytes)
        transfers[transfer].mode = mode
        requests[request].cursor &+= extent.length
        send(transfer)
        return true
    }

    /// fallocate's mode to begin with; 0: zeros are written out; nil: nothing is done. A file that refused a mode is not
    /// asked again. Clusters of QCOW2 keep their storage: a hole there would only be filled again.
    private func firstMode(isDiscard: Bool, mayUnmap: Bool) -> Int32? {
        if isDiscard { return chain.isRaw && canPunch && discards ? HostFile.Allocation.punchHole : nil }
        if mayUnmap, chain.isRaw, canPunch { return HostFile.Allocation.punchHole }
        return canZero ? HostFile.Allocation.zeroRange : 0
    }

    /// A zeroing or a hole is there, or has to be made by other means.
    func completeAllocation(_ transfer: TransferIndex, _ result: Int32) {
        if result == 0 {
            // The kernel has dropped what it had in memory there.
            pageCache.forget(transfers[transfer].file, transfers[transfer].host, UInt64(transfers[transfer].left))
            return release(transfer, error: 0)
        }
        if result == -EINTR || result == -EAGAIN, transfers[transfer].retries < RequestEngine.retryLimit {
            transfers[transfer].retries &+= 1
            return send(transfer)
        }
        guard [EOPNOTSUPP, ENOSYS, ENODEV, EINVAL].contains(0 &- result) else {
            return release(transfer, error: 0 &- result)
        }
        let wasPunch = transfers[transfer].mode == HostFile.Allocation.punchHole
        if wasPunch { canPunch = false } else { canZero = false }
        if requests[transfers[transfer].request].operation == .discard { return release(transfer, error: 0) }
        if wasPunch, canZero {
            transfers[transfer].mode = HostFile.Allocation.zeroRange
        } else {
            transfers[transfer].kind = .zeros
        }
        send(transfer)
    }

    // MARK: failures

    func isSound(_ extent: Extent, _ request: RequestIndex) -> Bool {
        extent.length > 0 && extent.length <= requests[request].end &- requests[request].cursor
            && Int(extent.file) < fileCount
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

    func failDamaged(_ request: RequestIndex, _ damage: MapDamage) {
        if damage.reason == .overlapsMetadata, damage.layer == 0, requests[request].operation != .read {
            allocations?.writer.foundCorruption()
        }
        requests[request].damage = damage
        requests[request].hasDamage = true
        fail(request, EIO)
    }
}
