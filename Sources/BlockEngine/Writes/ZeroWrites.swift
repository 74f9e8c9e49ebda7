// Zeros and discards of an image with a mapping change entries and move no bytes, where the format can
// say it; what it cannot say is written.
import DiskTypes
import Glibc
import ImageChain
import QCOW2

extension RequestEngine {
    /// Goes on with writeZeroes or discard of a mapped image from the request's cursor.
    func advanceMappedZeroes(_ request: RequestIndex) {
        guard let allocations else { return }
        requests[request].state = .advancing
        guard isPrepared || prepareToWrite(request) else { return }
        let isDiscard = requests[request].operation == .discard
        if isDiscard, !discards { requests[request].cursor = requests[request].end }
        while requests[request].error == 0, requests[request].cursor < requests[request].end {
            let left = requests[request].end &- requests[request].cursor
            switch chain.lookup(GuestOffset(requests[request].cursor), length: left) {
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
            guard zeroStep(request, left, mode, allocations) else { return }
        }
        drainOrFinish(request)
    }

    /// One step of it. False: the request waits.
    private func zeroStep(_ request: RequestIndex, _ left: UInt64, _ mode: ZeroMode, _ allocations: Allocations) -> Bool
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
}
