// Why this file exists: bytes on their way into the image. Only what has a cluster of its own is overwritten; anything
// else fails, and says so. Zeros and discards go by the file system's own means where it has them.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// Goes on with a write from its cursor.
    func walkWrite(_ slot: Int32) {
        let record = slots + Int(slot)
        record.pointee.state = .walking
        guard isPrepared || prepareToWrite(slot) else { return }
        while record.pointee.error == 0, record.pointee.cursor < record.pointee.end {
            switch chain.lookupForWrite(
                GuestOffset(record.pointee.cursor), length: record.pointee.end &- record.pointee.cursor)
            {
            case .inPlace(let extent):
                guard isSound(extent, record) else {
                    fail(slot, EIO)
                    break
                }
                record.pointee.tableTries = 0
                guard issueData(extent, slot) else { return }
            case .allocate(let length):
                guard allocate(slot, length, zeros: false) else { return }
            case .needs(let table):
                if awaitTable(table, slot) { return }
            case .damaged(let damage):
                failDamaged(slot, damage)
            }
        }
        drainOrFinish(slot)
    }

    /// Goes on with writeZeroes or discard from its cursor.
    func walkZeroes(_ slot: Int32) {
        if allocations != nil { return walkMappedZeroes(slot) }
        let record = slots + Int(slot)
        record.pointee.state = .walking
        while record.pointee.error == 0, record.pointee.cursor < record.pointee.end {
            guard let extent = zeroStep(slot, record) else {
                if record.pointee.state != .walking { return }
                continue
            }
            guard issueZeroes(extent, slot) else { return }
        }
        drainOrFinish(slot)
    }

    /// The next extent that must be made zero in place. Nil: nothing to do for the step, or the slot waits or failed.
    private func zeroStep(_ slot: Int32, _ record: UnsafeMutablePointer<Slot>) -> Extent? {
        let left = record.pointee.end &- record.pointee.cursor
        // What reads as zeros already stays as it is.
        switch chain.lookup(GuestOffset(record.pointee.cursor), length: left) {
        case .extent(let extent) where extent.kind.isZero || extent.kind.isUnallocated:
            record.pointee.cursor &+= min(max(extent.length, 1), left)
            return nil
        case .extent: break
        case .needs(let table):
            _ = awaitTable(table, slot)
            return nil
        case .damaged(let damage):
            failDamaged(slot, damage)
            return nil
        }
        switch chain.lookupForWrite(GuestOffset(record.pointee.cursor), length: left) {
        case .inPlace(let extent) where isSound(extent, record): return extent
        case .inPlace: fail(slot, EIO)
        // Bytes that need not be kept may as well stay.
        case .allocate(let length) where record.pointee.operation == .discard:
            record.pointee.cursor &+= min(max(length, 1), left)
        // Only mapped images allocate, and their zeros go another way.
        case .allocate: fail(slot, EIO)
        case .needs(let table): _ = awaitTable(table, slot)
        case .damaged(let damage): failDamaged(slot, damage)
        }
        return nil
    }

    /// Starts to make an extent zero. False: the slot is parked.
    func issueZeroes(_ extent: Extent, _ slot: Int32) -> Bool {
        let record = slots + Int(slot)
        let isDiscard = record.pointee.operation == .discard
        guard let mode = firstMode(isDiscard: isDiscard, mayUnmap: record.pointee.mayUnmap) else {
            record.pointee.cursor &+= extent.length
            return true
        }
        guard !hidesCut(extent.host.bytes, Int(truncatingIfNeeded: extent.length)) else {
            failCut(slot)
            return true
        }
        let piece = takePiece(for: slot)
        guard piece >= 0 else { return park(slot) }
        let at = Int(truncatingIfNeeded: record.pointee.cursor &- record.pointee.start)
        fill(
            piece, mode == 0 ? .zeros : .allocation, extent.file, at: at,
            length: Int(truncatingIfNeeded: extent.length),
            host: extent.host.bytes)
        pieces[Int(piece)].mode = mode
        record.pointee.cursor &+= extent.length
        send(piece)
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
    func completeAllocation(_ piece: Int32, _ result: Int32) {
        let record = pieces + Int(piece)
        if result == 0 {
            // The kernel has dropped what it had in memory there.
            files[Int(record.pointee.file)].window?._withUnsafeGuaranteedRef {
                $0.forget(record.pointee.host, UInt64(record.pointee.left))
            }
            return release(piece, error: 0)
        }
        if result == -EINTR || result == -EAGAIN, record.pointee.retries < RequestEngine.retryLimit {
            record.pointee.retries &+= 1
            return send(piece)
        }
        guard [EOPNOTSUPP, ENOSYS, ENODEV, EINVAL].contains(0 &- result) else {
            return release(piece, error: 0 &- result)
        }
        let wasPunch = record.pointee.mode == HostFile.Allocation.punchHole
        if wasPunch { canPunch = false } else { canZero = false }
        if slots[Int(record.pointee.slot)].operation == .discard { return release(piece, error: 0) }
        if wasPunch, canZero {
            record.pointee.mode = HostFile.Allocation.zeroRange
        } else {
            record.pointee.kind = .zeros
        }
        send(piece)
    }

    // MARK: failures

    func isSound(_ extent: Extent, _ record: UnsafeMutablePointer<Slot>) -> Bool {
        extent.length > 0 && extent.length <= record.pointee.end &- record.pointee.cursor
            && Int(extent.file) < fileCount
    }

    func failDamaged(_ slot: Int32, _ damage: MapDamage) {
        if damage.reason == .overlapsMetadata, damage.layer == 0, slots[Int(slot)].operation != .read {
            allocations?.writer.foundCorruption()
        }
        slots[Int(slot)].damage = damage
        slots[Int(slot)].hasDamage = true
        fail(slot, EIO)
    }
}
