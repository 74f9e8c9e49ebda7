// Reads chains whose descriptors are in an indirect table (virtio 1.3, sections 2.7.5.3 and 2.8.7). Such a table may be
// anywhere in the guest's memory, aligned or not, across regions or not; Linux sends nearly every block request this
// way.

extension Virtqueue {
    // The functions change nothing of the queue; they are `mutating` because a borrowed queue would be copied to be
    // read.

    /// Adds the buffers of the table that `descriptor` names. `isPacked` is a constant where this is inlined.
    @inline(__always) mutating func gatherIndirect(
        _ walker: inout DescriptorChainWalker, _ descriptor: Descriptor, flags: UInt16,
        _ chain: UnsafeMutablePointer<DescriptorChain>, isPacked: Bool
    ) {
        let bytes = UInt64(descriptor.length)
        let region = unsafe walker.region
        let offset = unsafe descriptor.address &- region.pointee.guest.raw
        let size = unsafe region.pointee.size
        let table = unsafe region.pointee.host + Int(truncatingIfNeeded: offset & 0x7FFF_FFFF_FFFF_FFFF)
        guard features.contains(.indirect), flags & RingLayout.flagNext == 0, bytes > 0, bytes & 15 == 0,
            bytes <= UInt64(ChainLimits.indirectEntries) << 4, offset < size, bytes <= size &- offset,
            UInt(bitPattern: table) & 7 == 0
        else {
            walker = unsafe gatherAwkward(walker, descriptor, flags, chain)
            return
        }
        unsafe walk(&walker, Int(truncatingIfNeeded: bytes >> 4), chain, isPacked: isPacked) { index, descriptor in
            let place = unsafe table + index &* RingLayout.descriptorBytes
            descriptor = unsafe Descriptor(address: load64(place), word: load64(place + 8))
            return true
        }
    }

    /// The same for a table that is wrong, or in another region than the last address, across regions, or misaligned.
    @inline(never) private mutating func gatherAwkward(
        _ start: DescriptorChainWalker, _ table: Descriptor, _ flags: UInt16,
        _ chain: UnsafeMutablePointer<DescriptorChain>
    ) -> DescriptorChainWalker {
        var walker = start
        guard features.contains(.indirect) else { return unsafe walker.givenUp(.indirectNotNegotiated, chain) }
        let entries = Int(table.length) / RingLayout.descriptorBytes
        guard table.length > 0, table.length & 15 == 0, entries <= ChainLimits.indirectEntries else {
            return unsafe walker.givenUp(.indirectLength, chain)
        }
        let memory = memory
        let scratch = unsafe scratch
        var region = unsafe walker.region
        unsafe walk(&walker, entries, chain, isPacked: isPacked) { index, descriptor in
            let (at, overflow) = table.address.addingReportingOverflow(UInt64(index &* RingLayout.descriptorBytes))
            guard !overflow,
                unsafe memory.copyOut(at, to: scratch, length: RingLayout.descriptorBytes, region: &region)
            else { return false }
            descriptor = unsafe Descriptor(address: load64(scratch), word: load64(scratch + 8))
            return true
        }
        if flags & RingLayout.flagNext != 0 { unsafe walker.failWhole(.indirectWithNext, chain) }
        return walker
    }

    /// Walks a table of `entries`, each of which `load` copies out.
    @inline(__always) private mutating func walk(
        _ walker: inout DescriptorChainWalker, _ entries: Int, _ chain: UnsafeMutablePointer<DescriptorChain>,
        isPacked: Bool, load: (Int, inout Descriptor) -> Bool
    ) {
        let pool = pool
        var index = 0
        var descriptor = Descriptor(address: 0, word: 0)
        while true {
            guard load(index, &descriptor) else {
                walker = unsafe walker.givenUp(.indirectOutsideMemory, chain)
                return
            }
            // Packed tables are read in order, and of the flags only WRITE means anything in them.
            let flags = isPacked ? descriptor.packedFlags & RingLayout.flagWrite : descriptor.splitFlags
            guard flags & RingLayout.flagIndirect == 0 else {
                walker = unsafe walker.givenUp(.indirectInIndirect, chain)
                return
            }
            guard
                unsafe walker.add(
                    descriptor.address, descriptor.length, isWritable: flags & RingLayout.flagWrite != 0, chain, pool)
            else { return }
            if isPacked {
                index &+= 1
                if index == entries { return }
            } else {
                if flags & RingLayout.flagNext == 0 { return }
                index = Int(descriptor.splitNext)
                guard index < entries else {
                    walker = unsafe walker.givenUp(.nextOutOfRange, chain)
                    return
                }
            }
        }
    }
}
