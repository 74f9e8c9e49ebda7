// How a queue starts, stops, moves to another host, gets new memory, and comes back after a crash. All of it is the
// control path, between two passes of the worker: it may allocate and throw.

/// The three areas of a ring (virtio 1.3, section 2.6) as host memory, each checked to be inside one region and
/// aligned.
@safe public struct RingAddresses: BitwiseCopyable {
    /// Descriptor area: the descriptor table (split) or the ring (packed).
    public let descriptors: UnsafeMutableRawPointer
    /// Driver area: the available ring (split) or the driver's event suppression (packed).
    public let driver: UnsafeMutableRawPointer
    /// Device area: the used ring (split) or the device's event suppression (packed).
    public let device: UnsafeMutableRawPointer
    /// Guest addresses of the two areas that the device writes: for the dirty log.
    let descriptorsAddress: UInt64
    let deviceAddress: UInt64

    /// The three addresses of a ring, in the guest's memory or in the front-end's address space.
    public enum Addresses: Sendable {
        /// Guest addresses.
        case guest(descriptors: GuestAddress, driver: GuestAddress, device: GuestAddress)
        /// Addresses in the front-end's address space, as SET_VRING_ADDR gives them.
        case user(descriptors: UInt64, driver: UInt64, device: UInt64)
    }

    /// Finds the areas of a ring with `size` entries. Throws `.ringOutsideMemory` for one that is not wholly inside a
    /// region of `memory`, and `.ringMisaligned`.
    public init(
        _ addresses: Addresses, size: Int, isPacked: Bool, in memory: GuestMemorySnapshot
    ) throws(VirtqueueError) {
        let lengths = [
            RingLayout.descriptorBytes * size,
            isPacked ? RingLayout.eventBytes : RingLayout.availBytes(size: size),
            isPacked ? RingLayout.eventBytes : RingLayout.usedBytes(size: size),
        ].map(UInt64.init)
        let found: [UnsafeMutableRawPointer?]
        switch addresses {
        case .guest(let descriptors, let driver, let device):
            unsafe found = unsafe zip([descriptors, driver, device], lengths).map { unsafe memory.contiguous($0, $1) }
        case .user(let descriptors, let driver, let device):
            unsafe found = unsafe zip([descriptors, driver, device], lengths).map {
                unsafe memory.contiguous(user: $0, $1)
            }
        }
        unsafe descriptors = try unsafe Self.checked(found[0], .descriptors, alignment: 16)
        unsafe driver = try unsafe Self.checked(found[1], .driver, alignment: isPacked ? 4 : 2)
        unsafe device = try unsafe Self.checked(found[2], .device, alignment: 4)
        descriptorsAddress = try unsafe Self.guestAddress(of: descriptors, .descriptors, in: memory)
        deviceAddress = try unsafe Self.guestAddress(of: device, .device, in: memory)
    }

    private static func guestAddress(
        of place: UnsafeMutableRawPointer, _ part: RingPart, in memory: GuestMemorySnapshot
    ) throws(VirtqueueError) -> UInt64 {
        guard let address = unsafe memory.guestAddress(of: place) else { throw .ringOutsideMemory(part) }
        return address
    }

    private static func checked(
        _ place: UnsafeMutableRawPointer?, _ part: RingPart, alignment: UInt
    ) throws(VirtqueueError) -> UnsafeMutableRawPointer {
        guard let place = unsafe place else { throw .ringOutsideMemory(part) }
        guard UInt(bitPattern: place) & (alignment - 1) == 0 else { throw .ringMisaligned(part) }
        return unsafe place
    }
}

/// The shared memory of a queue's in-flight record (vhost-user specification: "Inflight I/O tracking"). It must stay
/// mapped while the queue runs.
@safe public struct InflightMemory: BitwiseCopyable {
    /// The record's first byte.
    public let base: UnsafeMutableRawPointer
    /// Bytes of memory there.
    public let bytes: Int
    /// Nothing is checked before `start`.
    public init(base: UnsafeMutableRawPointer, bytes: Int) {
        unsafe self.base = unsafe base
        self.bytes = bytes
    }
    /// Bytes that the record of one queue with `size` entries needs.
    public static func bytes(size: Int, isPacked: Bool) -> Int {
        isPacked ? InflightPacked.bytes(size: size) : InflightSplit.bytes(size: size)
    }

    /// Makes the record that of a ring which never ran: the next `start` begins at the base it is given. No queue may
    /// run with the record meanwhile.
    public func forget() {
        // Both kinds have their version there; 0 means that nothing of the record counts.
        guard bytes >= InflightSplit.headerBytes else { return }
        unsafe release16(base + InflightSplit.Field.version, 0)
    }
}

extension Virtqueue {
    /// Where a packed ring starts when no position was saved: entry 0, first lap, for both sides.
    public static let packedBase: UInt32 = 0x8000_8000

    /// Starts at `base` as `stop` returned it (VHOST_USER_SET_VRING_BASE). With an in-flight record, requests that an
    /// earlier process did not finish come out of `pop` first. `usedGuestAddress`: see `setLog`. Throws `.busy` while
    /// requests are in flight, and nothing has changed; `.badBase` and `.badInflightRegion`, and the queue is stopped.
    public mutating func start(
        _ places: RingAddresses, base: UInt32, inflight: InflightMemory? = nil, usedGuestAddress: GuestAddress? = nil
    ) throws(VirtqueueError) {
        guard inFlight == 0 else { throw .busy }
        isRunning = false
        refresh()
        unsafe descriptors = unsafe places.descriptors
        unsafe driver = unsafe places.driver
        unsafe device = unsafe places.device
        setLogAddresses(places, used: usedGuestAddress)
        replayCount = 0
        replayed = 0
        entriesInFlight = 0
        pendingEntries = 0
        batchCount = 0
        if isPacked { try startPacked(base, inflight) } else { try startSplit(base, inflight) }
        shadowAvail = nextAvail
        publishedUsed = nextUsed
        mustSignal = true
        damage = .none
        isRunning = true
        refresh()
    }

    private mutating func startSplit(_ base: UInt32, _ inflight: InflightMemory?) throws(VirtqueueError) {
        guard let start = UInt16(exactly: base) else { throw .badBase(base) }
        nextUsed = unsafe acquire16(device + RingLayout.usedIndexOffset)
        nextAvail = start
        inflightSplit = nil
        guard let inflight else { return }
        var record = try unsafe InflightSplit(base: inflight.base, bytes: inflight.bytes, size: size)
        let isNew = record.isNew
        let heads = try record.recover(usedIndex: nextUsed)
        setReplay(heads)
        // What was taken and not used is in the record; the front-end's own idea of the base may be older.
        if !isNew { nextAvail = nextUsed &+ UInt16(truncatingIfNeeded: heads.count) }
        inflightSplit = record
    }

    private mutating func startPacked(_ base: UInt32, _ inflight: InflightMemory?) throws(VirtqueueError) {
        nextAvail = UInt16(truncatingIfNeeded: base) & 0x7FFF
        availWrap = base & 0x8000 != 0
        nextUsed = UInt16(truncatingIfNeeded: base >> 16) & 0x7FFF
        usedWrap = base & 0x8000_0000 != 0
        guard Int(nextAvail) < size, Int(nextUsed) < size else { throw .badBase(base) }
        inflightPacked = nil
        guard let inflight else { return }
        var record = try unsafe InflightPacked(base: inflight.base, bytes: inflight.bytes, size: size)
        let isNew = record.isNew
        let state = try unsafe record.recover(usedIndex: nextUsed, usedWrap: usedWrap, ring: descriptors)
        inflightPacked = record
        guard !isNew else { return }
        nextUsed = state.usedIndex
        usedWrap = state.usedWrap
        let next = Int(nextUsed) + state.ringEntries
        nextAvail = UInt16(truncatingIfNeeded: next >= size ? next - size : next)
        availWrap = next >= size ? !usedWrap : usedWrap
        entriesInFlight = state.ringEntries
        takeBackUsed(state.ringEntries)
        setReplay(state.chains)
    }

    /// The killed process may have written used entries behind one that it had not published yet. This process will
    /// write them again: they are marked as available, or the driver would read on into them.
    private mutating func takeBackUsed(_ entries: Int) {
        var index = Int(nextUsed)
        var wrap = usedWrap
        for _ in 0..<entries {
            let flags = wrap ? RingLayout.flagAvail : RingLayout.flagUsed
            unsafe release16(descriptors + index * RingLayout.descriptorBytes + 14, flags)
            if logRing { logEntry(index) }
            index += 1
            if index == size {
                index = 0
                wrap.toggle()
            }
        }
    }

    private mutating func setReplay(_ list: [UInt16]) {
        for (i, item) in list.enumerated() { unsafe replay[i] = item }
        replayCount = list.count
    }

    /// Requests of an earlier process that `pop` has not returned yet.
    public var replaysLeft: Int { replayCount - replayed }

    /// The position to go on from (VHOST_USER_GET_VRING_BASE): the next available index (split), or both positions and
    /// wrap counters (packed; formats/vhost-user/README.md).
    public var base: UInt32 {
        guard isPacked else { return UInt32(nextAvail) }
        let avail = UInt32(nextAvail) | (availWrap ? 0x8000 : 0)
        return avail | (UInt32(nextUsed) | (usedWrap ? 0x8000 : 0)) << 16
    }

    /// Stops, and returns `base`; the guest's memory is not touched from here on. The worker finishes what is in flight
    /// first: a request that is pushed later is dropped (and comes back by the in-flight record, if there is one).
    public mutating func stop() -> UInt32 {
        isRunning = false
        refresh()
        shadowAvail = nextAvail
        return base
    }

    /// Goes over to another snapshot of the guest's memory, in which the ring is at `places` (nil: no ring, the queue
    /// is stopped). Requests in flight keep theirs; it may not be released before `isSettled`.
    public mutating func adopt(_ next: GuestMemorySnapshot, _ places: RingAddresses?) {
        guard next.generation != memory.generation else { return }
        unsettled = inFlight
        refresh()
        memory = next
        unsafe lastRegion = unsafe next.regions
        guard let places else { return }
        unsafe descriptors = unsafe places.descriptors
        unsafe driver = unsafe places.driver
        unsafe device = unsafe places.device
        setLogAddresses(places, used: nil)
    }

    /// No request in flight was read with an older snapshot than the current one.
    public var isSettled: Bool { unsettled == 0 }
}

/// Names memory of a snapshot; only the worker that owns the queue reads or writes there.
extension RingAddresses: @unchecked Sendable {}
/// A window on shared memory.
extension InflightMemory: @unchecked Sendable {}

// The requests that a killed process left in flight come before any new one, in the order of their arrival. They are read
// and checked like all others, because the other side can write to the memory that they and the record are in.
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
