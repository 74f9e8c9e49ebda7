// Requests that a killed process left behind come out of the queue again, before any new one and in the order in
// which they came. They are read and checked like all others: the record is the guest's word too.

extension Virtqueue {
    @inline(never) mutating func replaySplit() -> UnsafeMutablePointer<DescriptorChain>? {
        guard !pool.free.isEmpty else { return nil }
        let head = Int(replay[replayed])
        replayed &+= 1
        gatherSplit(chains + head, head)
        return chains + head
    }

    @inline(never) mutating func replayPacked() -> UnsafeMutablePointer<DescriptorChain>? {
        guard let record = inflightPacked, !pool.free.isEmpty else { return nil }
        guard !freeSlots.isEmpty else {
            markBroken(.inflightRecord)
            return nil
        }
        let index = Int(replay[replayed])
        let slot = Int(freeSlots.take())
        let chain = chains + slot
        var gatherer = DescriptorChainWalker(chain, list: shortList(slot), memory: memory, region: lastRegion)
        var walk = record.descriptors(of: index)
        let entries = walk.left
        var id: UInt16 = 0
        while let descriptor = walk.next() {
            id = descriptor.packedID
            let flags = descriptor.packedFlags
            if chain.pointee.fault.isStructural { continue }
            if flags & RingLayout.flagIndirect != 0 {
                gatherIndirect(&gatherer, descriptor, flags: flags, chain, isPacked: true)
            } else {
                _ = gatherer.add(
                    descriptor.address, descriptor.length, isWritable: flags & RingLayout.flagWrite != 0, chain, pool)
            }
        }
        gatherer.finish(chain)
        guard walk.left == 0, mark(id) else {
            freeSlots.give(Int32(truncatingIfNeeded: slot))
            brokenChain(chain, .inflightRecord)
            return nil
        }
        replayed &+= 1
        chain.pointee.ringEntries = UInt16(truncatingIfNeeded: entries)
        chain.pointee.record = UInt16(truncatingIfNeeded: index)
        enter(chain, id: id)
        return chain
    }
}
