// Why this file exists: a chain may live in a table of its own (virtio 1.3, sections 2.7.5.3 and 2.8.8), anywhere in
// the guest's memory, aligned or not, over region borders or not. Linux sends nearly every block request this way.

extension Virtqueue {
    /// Takes in the table that `descriptor` names. By value and back, so that the caller's gatherer stays in registers.
    @inline(__always)
    func gatherIndirect(_ start: ChainGatherer, _ descriptor: Descriptor, flags: UInt16) -> ChainGatherer {
        var gatherer = start
        let bytes = UInt64(descriptor.length)
        guard features.contains(.indirect) else {
            gatherer.giveUp(.indirectNotNegotiated)
            return gatherer
        }
        let entries = Int(descriptor.length) / RingLayout.descriptorBytes
        guard bytes > 0, bytes & 15 == 0, entries <= ChainLimits.indirectEntries else {
            gatherer.giveUp(.indirectLength)
            return gatherer
        }
        let region = memory.regions + gatherer.hit
        let offset = descriptor.address &- region.pointee.guest.raw
        let size = region.pointee.size
        if offset < size, bytes <= size &- offset, descriptor.address & 7 == 0 {
            let table = region.pointee.host + Int(truncatingIfNeeded: offset)
            if UInt(bitPattern: table) & 7 == 0 {
                walk(&gatherer, entries) { index, descriptor in
                    let place = table + index &* RingLayout.descriptorBytes
                    descriptor = Descriptor(address: load64(place), word: load64(place + 8))
                    return true
                }
            } else {
                gatherer = gatherAwkward(gatherer, descriptor, entries)
            }
        } else {
            gatherer = gatherAwkward(gatherer, descriptor, entries)
        }
        if flags & RingLayout.flagNext != 0, !gatherer.fault.isStructural { gatherer.fault = .indirectWithNext }
        return gatherer
    }

    /// A table in another region than the last address, over a border, or misaligned.
    @inline(never)
    private func gatherAwkward(_ start: ChainGatherer, _ table: Descriptor, _ entries: Int) -> ChainGatherer {
        var gatherer = start
        let memory = memory
        let scratch = scratch
        var hit = gatherer.hit
        // Alone in its region and aligned, it is worth the fast walk still.
        if table.address & 7 == 0,
            let piece = memory.piece(at: table.address, length: UInt64(table.length), hit: &hit),
            piece.length == UInt64(table.length), UInt(bitPattern: piece.host) & 7 == 0
        {
            walk(&gatherer, entries) { index, descriptor in
                let place = piece.host + index &* RingLayout.descriptorBytes
                descriptor = Descriptor(address: load64(place), word: load64(place + 8))
                return true
            }
            return gatherer
        }
        walk(&gatherer, entries) { index, descriptor in
            let (at, overflow) = table.address.addingReportingOverflow(UInt64(index &* RingLayout.descriptorBytes))
            guard !overflow,
                memory.copyOut(at, to: scratch, length: RingLayout.descriptorBytes, hit: &hit)
            else { return false }
            descriptor = Descriptor(address: load64(scratch), word: load64(scratch + 8))
            return true
        }
        return gatherer
    }

    /// Walks a table of `entries`, each of which `load` copies out.
    @inline(__always)
    private func walk(
        _ gatherer: inout ChainGatherer, _ entries: Int, load: (Int, inout Descriptor) -> Bool
    ) {
        var index = 0
        var left = min(entries, ChainLimits.descriptors)
        var descriptor = Descriptor(address: 0, word: 0)
        while true {
            guard load(index, &descriptor) else { return gatherer.giveUp(.indirectOutsideMemory) }
            // Packed tables are read in order, and of the flags only WRITE means anything in them.
            let flags = isPacked ? descriptor.packedFlags & RingLayout.flagWrite : descriptor.splitFlags
            guard flags & RingLayout.flagIndirect == 0 else { return gatherer.giveUp(.indirectInIndirect) }
            gatherer.add(descriptor.address, descriptor.length, isWritable: flags & RingLayout.flagWrite != 0)
            left &-= 1
            if isPacked {
                index &+= 1
                if index == entries { return }
                guard left > 0 else { return gatherer.giveUp(.endless) }
            } else {
                if flags & RingLayout.flagNext == 0 { return }
                index = Int(descriptor.splitNext)
                guard index < entries else { return gatherer.giveUp(.nextOutOfRange) }
                guard left > 0 else { return gatherer.giveUp(.endless) }
            }
        }
    }
}
