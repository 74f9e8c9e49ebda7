// How requests come and go, and the split ring, which most drivers use (virtio 1.3, section 2.7): a table of descriptors, a
// ring of heads that the driver makes available, a ring of elements that the device has used. The packed ring is in
// Virtqueue+Packed.

extension Virtqueue {
    // MARK: requests in

    /// The next request, or nil when there is none now (or the queue is stopped or broken). A chain with a `fault` is
    /// returned too: the caller answers it, in its status byte where it has one.
    @inline(__always)
    public mutating func pop() -> UnsafeMutablePointer<DescriptorChain>? {
        if isPacked { return unsafe popPacked() }
        return unsafe popSplit()
    }

    /// Whether `pop` may return something: what a polling worker asks. One load, no ordering.
    @inline(__always)
    public var hasAvailable: Bool {
        guard isRunning, damage == .none else { return false }
        if replayed < replayCount { return true }
        return isPacked ? packedHasAvailable : splitHasAvailable
    }

    // MARK: requests out

    /// Gives a request back, with `written` bytes of its writable buffers written. The driver sees it after `publish`.
    /// Traps for a chain that is not in flight.
    @inline(__always)
    public mutating func push(_ chain: UnsafeMutablePointer<DescriptorChain>, written: UInt32) {
        unsafe precondition(chain.pointee.isInFlight, "the chain is not in flight")
        unsafe chain.pointee.isInFlight = false
        inFlight &-= 1
        if unsafe chain.pointee.longList >= 0 { unsafe returnList(chain) }
        guard isPlain else { return unsafe pushCarefully(chain, written) }
        if isPacked {
            unsafe leavePacked(chain)
            unsafe writeUsedPacked(chain, written)
        } else {
            unsafe writeUsedSplit(chain.pointee.id, written)
        }
    }

    /// Makes everything pushed so far visible, at once. True when the driver wants a signal.
    @inline(__always)
    public mutating func publish() -> Bool {
        guard pendingEntries > 0, isRunning else { return false }
        return isPacked ? publishPacked() : publishSplit()
    }

    // MARK: available

    @inline(__always) var splitHasAvailable: Bool {
        unsafe load16(driver + RingLayout.availIndexOffset) != nextAvail
    }

    @inline(__always) mutating func popSplit() -> UnsafeMutablePointer<DescriptorChain>? {
        // Heads that were available at the last read of avail.idx are taken first. There are none while requests are to
        // be replayed.
        if shadowAvail == nextAvail {
            guard isRunning, damage == .none else { return nil }
            if replayed < replayCount { return unsafe replaySplit() }
            guard refreshAvailIndex() else { return nil }
        }
        return unsafe takeSplit()
    }

    /// Reads avail.idx; false when nothing is new.
    private mutating func refreshAvailIndex() -> Bool {
        shadowAvail = unsafe acquire16(driver + RingLayout.availIndexOffset)
        guard shadowAvail != nextAvail else { return false }
        guard Int(shadowAvail &- nextAvail) <= size else {
            damageRing(.availOverrun)
            return false
        }
        return true
    }

    /// Marks the queue broken; no head that is available already is taken any more.
    @inline(never) private mutating func damageRing(_ why: RingError) {
        shadowAvail = nextAvail
        markBroken(why)
    }

    @inline(__always) private mutating func takeSplit() -> UnsafeMutablePointer<DescriptorChain>? {
        while true {
            let head = unsafe Int(load16(driver + RingLayout.availRingOffset + 2 &* (Int(nextAvail) & mask)))
            guard head < size else {
                damageRing(.headOutOfRange)
                return nil
            }
            guard inFlight &+ pendingEntries < size else {
                damageRing(.overcommitted)
                return nil
            }
            guard !pool.free.isEmpty else { return nil }
            nextAvail &+= 1
            let chain = unsafe chains + head
            if unsafe !chain.pointee.isInFlight {
                inflightSplit?.enter(head)
                unsafe gatherSplit(chain, head)
                return unsafe chain
            }
            // The head is in flight already. This publication is answered at once, and the request in flight is not
            // touched.
            refuseSplit(UInt16(truncatingIfNeeded: head))
            if shadowAvail == nextAvail { return nil }
        }
    }

    /// Answers the publication of a head that is in flight, with no byte written.
    @inline(never) private mutating func refuseSplit(_ head: UInt16) {
        refused &+= 1
        let position = nextUsed
        writeUsedSplit(head, 0)
        if logRing { logUsed(position) }
    }

    @inline(__always) mutating func gatherSplit(_ chain: UnsafeMutablePointer<DescriptorChain>, _ head: Int) {
        var walker = unsafe DescriptorChainWalker(chain, list: shortList(head), memory: memory, region: lastRegion)
        let descriptors = unsafe descriptors
        let size = size
        let pool = pool
        var index = head
        while true {
            let place = unsafe descriptors + index &* RingLayout.descriptorBytes
            let descriptor = unsafe Descriptor(address: load64(place), word: load64(place + 8))
            let flags = descriptor.splitFlags
            if flags & RingLayout.flagIndirect != 0 {
                unsafe gatherIndirect(&walker, descriptor, flags: flags, chain, isPacked: false)
                break
            }
            guard
                unsafe walker.add(
                    descriptor.address, descriptor.length, isWritable: flags & RingLayout.flagWrite != 0, chain, pool),
                flags & RingLayout.flagNext != 0
            else { break }
            index = Int(descriptor.splitNext)
            guard index < size else {
                walker = unsafe walker.givenUp(.nextOutOfRange, chain)
                break
            }
        }
        unsafe walker.finish(chain)
        unsafe lastRegion = unsafe walker.region
        unsafe enter(chain, id: UInt16(truncatingIfNeeded: head))
    }

    // MARK: used

    @inline(__always) mutating func writeUsedSplit(_ id: UInt16, _ written: UInt32) {
        let offset = RingLayout.usedRingOffset + RingLayout.usedElementBytes &* (Int(nextUsed) & mask)
        // Two words of four bytes each: the element is aligned to no more than that.
        let place = unsafe device + offset
        unsafe place.storeBytes(of: UInt32(id).littleEndian, as: UInt32.self)
        unsafe place.storeBytes(of: written.littleEndian, toByteOffset: 4, as: UInt32.self)
        nextUsed &+= 1
        pendingEntries &+= 1
    }

    @inline(__always) mutating func publishSplit() -> Bool {
        if let record = inflightSplit {
            publishRecorded(record)
        } else {
            unsafe release16(device + RingLayout.usedIndexOffset, nextUsed)
        }
        if logRing { logDeviceArea(RingLayout.usedIndexOffset, 2) }
        let old = publishedUsed
        publishedUsed = nextUsed
        pendingEntries = 0
        // Whether the driver wants a signal is read after the index is visible; else both sides could wait for each
        // other.
        fullFence()
        if mustSignal {
            mustSignal = false
            return true
        }
        if features.contains(.notifyOnEmpty), inFlight == 0, !splitHasAvailable { return true }
        guard features.contains(.eventIndex) else { return unsafe load16(driver) & RingLayout.availNoInterrupt == 0 }
        let event = unsafe load16(driver + RingLayout.availRingOffset + 2 &* size)
        return needsEvent(event, new: nextUsed, old: old)
    }

    /// Publishes in steps, between any two of which a crash may come: the batch is linked, visible, cleared, done.
    private mutating func publishRecorded(_ record: InflightSplit) {
        for i in 0..<batchCount { unsafe record.retire(Int(batch[i])) }
        unsafe release16(device + RingLayout.usedIndexOffset, nextUsed)
        for i in 0..<batchCount { unsafe record.clear(Int(batch[i])) }
        record.commit(usedIndex: nextUsed)
        batchCount = 0
    }

    // MARK: kicks

    mutating func setSplitKicks(_ isOn: Bool) {
        if features.contains(.eventIndex) {
            // To switch off, nothing is written: an index already passed does not come again for 65536 requests.
            guard isOn else { return }
            let offset = RingLayout.usedRingOffset + RingLayout.usedElementBytes * size
            unsafe store16(device + offset, nextAvail)
            if logRing { logDeviceArea(offset, 2) }
        } else {
            unsafe store16(device, isOn ? 0 : RingLayout.usedNoNotify)
            if logRing { logDeviceArea(0, 2) }
        }
    }
}
