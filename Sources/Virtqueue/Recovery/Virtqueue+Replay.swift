// Takes the requests that a killed process left in flight, before any new one and in the order of their arrival. They
// are read and checked like all others, because the other side can write to the memory that they and the record are in.

extension Virtqueue {
    /// The next request of a split ring's record; nil while no long list is free.
    @inline(never) mutating func replaySplit() -> UnsafeMutablePointer<DescriptorChain>? {
        guard !pool.free.isEmpty else { return nil }
        let head = unsafe Int(replay[replayed])
        replayed &+= 1
        unsafe gatherSplit(chains + head, head)
        return unsafe chains + head
    }

    /// The next request of a packed ring's record, from its copies of the descriptors; nil while no long list is free,
    /// or when the record is damaged.
    @inline(never) mutating func replayPacked() -> UnsafeMutablePointer<DescriptorChain>? {
        guard let record = inflightPacked, !pool.free.isEmpty else { return nil }
        guard !freeSlots.isEmpty else {
            markBroken(.inflightRecord)
            return nil
        }
        let index = unsafe Int(replay[replayed])
        let slot = Int(freeSlots.take())
        let chain = unsafe chains + slot
        var walker = unsafe DescriptorChainWalker(chain, list: shortList(slot), memory: memory, region: lastRegion)
        var walk = record.descriptors(of: index)
        let entries = walk.left
        var id: UInt16 = 0
        while let descriptor = walk.next() {
            id = descriptor.packedID
            let flags = descriptor.packedFlags
            if unsafe chain.pointee.fault.isStructural { continue }
            if flags & RingLayout.flagIndirect != 0 {
                unsafe gatherIndirect(&walker, descriptor, flags: flags, chain, isPacked: true)
            } else {
                _ = unsafe walker.add(
                    descriptor.address, descriptor.length, isWritable: flags & RingLayout.flagWrite != 0, chain, pool)
            }
        }
        unsafe walker.finish(chain)
        guard walk.left == 0, mark(id) else {
            freeSlots.give(Int32(truncatingIfNeeded: slot))
            unsafe brokenChain(chain, .inflightRecord)
            return nil
        }
        replayed &+= 1
        unsafe chain.pointee.ringEntries = UInt16(truncatingIfNeeded: entries)
        unsafe chain.pointee.record = UInt16(truncatingIfNeeded: index)
        unsafe enter(chain, id: id)
        return unsafe chain
    }
}
