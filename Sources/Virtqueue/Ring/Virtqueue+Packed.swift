// The packed ring (virtio 1.3, section 2.8): one ring of descriptors that driver and device take turns to write. Two
// bits of each, compared with a wrap counter, say which side owns it.

extension Virtqueue {
    /// Whether a descriptor with these flags was made available in this lap of the ring.
    @inline(__always) private func isAvailable(_ flags: UInt16) -> Bool {
        let bits = flags & (RingLayout.flagAvail | RingLayout.flagUsed)
        return bits == (availWrap ? RingLayout.flagAvail : RingLayout.flagUsed)
    }

    @inline(__always) private func entry(_ index: UInt16) -> UnsafeMutableRawPointer {
        unsafe descriptors + Int(index) &* RingLayout.descriptorBytes
    }

    @inline(__always) var packedHasAvailable: Bool { unsafe isAvailable(load16(entry(nextAvail) + 14)) }

    /// The next request of a packed ring; see `pop`.
    @inline(never) mutating func popPacked() -> UnsafeMutablePointer<DescriptorChain>? {
        guard isRunning, damage == .none else { return nil }
        if replayed < replayCount { return unsafe replayPacked() }
        while true {
            let place = unsafe entry(nextAvail)
            // One load decides and fetches: length, id and flags are one word, the address is read behind it.
            let word = unsafe acquire64(place + 8)
            let first = Descriptor(address: 0, word: word)
            guard isAvailable(first.packedFlags) else { return nil }
            guard !freeSlots.isEmpty, !pool.free.isEmpty else { return unsafe waitOrBreak() }
            let slot = Int(freeSlots.take())
            guard let id = unsafe gatherPacked(chains + slot, Descriptor(address: load64(place), word: word)) else {
                freeSlots.give(Int32(truncatingIfNeeded: slot))
                return nil
            }
            if mark(id) { return unsafe chains + slot }
            unsafe refusePacked(chains + slot, id)
        }
    }

    /// No slot or no long list is free. Without a slot, the driver has made more buffers available than the ring has
    /// entries, and the queue is broken; long lists become free when requests are pushed.
    @inline(never) private mutating func waitOrBreak() -> UnsafeMutablePointer<DescriptorChain>? {
        if freeSlots.isEmpty { markBroken(.overcommitted) }
        return nil
    }

    /// Marks a buffer id as in flight; false when it is already.
    @inline(__always) mutating func mark(_ id: UInt16) -> Bool {
        let word = unsafe idsInFlight + Int(id >> 6)
        let bit = UInt64(1) << UInt64(id & 63)
        guard unsafe word.pointee & bit == 0 else { return false }
        unsafe word.pointee |= bit
        return true
    }

    /// Reads the chain at `nextAvail` and returns its buffer id; nil when the queue is broken.
    @inline(__always) private mutating func gatherPacked(
        _ chain: UnsafeMutablePointer<DescriptorChain>, _ first: Descriptor
    ) -> UInt16? {
        let slot = unsafe Int(chain.pointee.slot)
        var walker = unsafe DescriptorChainWalker(chain, list: shortList(slot), memory: memory, region: lastRegion)
        let pool = pool
        let size = size
        let ring = unsafe descriptors
        let isRecorded = inflightPacked != nil
        var descriptor = first
        var index = nextAvail
        var wrap = availWrap
        var entries = 0
        let most = size &- entriesInFlight &- pendingEntries
        while true {
            guard entries < most else {
                unsafe brokenChain(chain, entries == size ? .endlessChain : .overcommitted)
                return nil
            }
            let flags = descriptor.packedFlags
            if unsafe chain.pointee.fault.isStructural {
                // Only the id, which is in the last entry, matters now.
            } else if flags & RingLayout.flagIndirect != 0 {
                unsafe gatherIndirect(&walker, descriptor, flags: flags, chain, isPacked: true)
            } else {
                _ = unsafe walker.add(
                    descriptor.address, descriptor.length, isWritable: flags & RingLayout.flagWrite != 0, chain, pool)
            }
            if isRecorded, inflightPacked?.note(descriptor, isHead: entries == 0) != true {
                unsafe brokenChain(chain, .inflightRecord)
                return nil
            }
            entries &+= 1
            index &+= 1
            if Int(index) == size {
                index = 0
                wrap.toggle()
            }
            if flags & RingLayout.flagNext == 0 { break }
            let place = unsafe ring + Int(index) &* RingLayout.descriptorBytes
            descriptor = unsafe Descriptor(address: load64(place), word: load64(place + 8))
        }
        nextAvail = index
        availWrap = wrap
        unsafe walker.finish(chain)
        unsafe lastRegion = unsafe walker.region
        unsafe chain.pointee.ringEntries = UInt16(truncatingIfNeeded: entries)
        entriesInFlight &+= entries
        if isRecorded, let entry = inflightPacked?.enter() { unsafe chain.pointee.record = entry }
        unsafe enter(chain, id: descriptor.packedID)
        return descriptor.packedID
    }

    @inline(never)
    mutating func brokenChain(_ chain: UnsafeMutablePointer<DescriptorChain>, _ why: RingError) {
        if unsafe chain.pointee.longList >= 0 { unsafe returnList(chain) }
        markBroken(why)
    }

    /// The driver made an id available that is in flight. The request in flight keeps it; this chain goes straight
    /// back.
    @inline(never)
    private mutating func refusePacked(_ chain: UnsafeMutablePointer<DescriptorChain>, _ id: UInt16) {
        if unsafe chain.pointee.fault == .none { refused &+= 1 }
        unsafe push(chain, written: 0)
        // `push` removed the mark of the request in flight.
        _ = mark(id)
    }

    // MARK: used

    /// Frees the chain's slot and its buffer id.
    @inline(__always) mutating func leavePacked(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        let id = unsafe chain.pointee.id
        unsafe idsInFlight[Int(id >> 6)] &= ~(UInt64(1) << UInt64(id & 63))
        unsafe freeSlots.give(Int32(truncatingIfNeeded: chain.pointee.slot))
    }

    @inline(__always)
    mutating func writeUsedPacked(_ chain: UnsafeMutablePointer<DescriptorChain>, _ written: UInt32) {
        let id = unsafe chain.pointee.id
        var flags: UInt16 = usedWrap ? RingLayout.flagAvail | RingLayout.flagUsed : 0
        if written > 0 { flags |= RingLayout.flagWrite }
        let word = UInt64(written) | UInt64(id) << 32 | UInt64(flags) << 48
        // The first of a batch is stored last: the driver looks at it first, and behind it only when it is used.
        if pendingEntries == 0 { pendingWord = word } else { unsafe store64(entry(nextUsed) + 8, word) }
        let entries = unsafe Int(chain.pointee.ringEntries)
        pendingEntries &+= entries
        entriesInFlight &-= entries
        advanceUsed(entries)
    }

    @inline(__always) private mutating func advanceUsed(_ entries: Int) {
        var next = Int(nextUsed) &+ entries
        if next >= size {
            next &-= size
            usedWrap.toggle()
        }
        nextUsed = UInt16(truncatingIfNeeded: next)
    }

    @inline(__always) mutating func publishPacked() -> Bool {
        if let record = inflightPacked {
            publishRecorded(record)
        } else {
            unsafe release64(entry(publishedUsed) + 8, pendingWord)
        }
        if logRing { logEntry(Int(publishedUsed)) }
        var old = publishedUsed
        publishedUsed = nextUsed
        pendingEntries = 0
        fullFence()
        if mustSignal {
            mustSignal = false
            return true
        }
        if features.contains(.notifyOnEmpty), inFlight == 0, !packedHasAvailable { return true }
        let flags = unsafe load16(driver + RingLayout.eventFlagsOffset)
        guard flags == RingLayout.eventDescriptor, features.contains(.eventIndex) else {
            return flags != RingLayout.eventDisable
        }
        // Positions of this lap count from 0; those of the lap before are negative.
        let wish = unsafe load16(driver)
        var event = wish & ~RingLayout.eventWrapBit
        if (wish & RingLayout.eventWrapBit != 0) != usedWrap { event &-= UInt16(size) }
        if nextUsed <= old { old &-= UInt16(size) }
        return needsEvent(event, new: nextUsed, old: old)
    }

    /// Publishes in steps, between any two of which a crash may come; the record's transaction tells the next process
    /// whether the batch was published.
    private mutating func publishRecorded(_ record: InflightPacked) {
        for i in 0..<batchCount { unsafe record.retire(Int(batch[i])) }
        record.announce(usedIndex: nextUsed, wrap: usedWrap)
        unsafe release64(entry(publishedUsed) + 8, pendingWord)
        for i in 0..<batchCount { unsafe record.clear(Int(batch[i])) }
        record.commit()
        batchCount = 0
    }

    // MARK: kicks

    mutating func setPackedKicks(_ isOn: Bool) {
        if isOn, features.contains(.eventIndex) {
            unsafe store16(device, nextAvail | (availWrap ? RingLayout.eventWrapBit : 0))
            unsafe release16(device + RingLayout.eventFlagsOffset, RingLayout.eventDescriptor)
        } else {
            unsafe store16(
                device + RingLayout.eventFlagsOffset, isOn ? RingLayout.eventEnable : RingLayout.eventDisable)
        }
        if logRing { logDeviceArea(0, RingLayout.eventBytes) }
    }
}
