// Why this file exists: zeros and discards of an image with a mapping change entries and move no bytes, where the format can
// say it; what it cannot say is written.
import DiskTypes
import Glibc
import ImageChain
import QCOW2

extension RequestEngine {
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
            allocations.writer.startWaiting(allocations.client)
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
