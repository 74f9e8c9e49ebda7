// The benchmark's driver of a virtqueue. The mock driver can do anything a driver can, at a cost that would be measured
// along with the server; here every slot has its descriptors from the start and a request changes three words, so that
// the client costs a small part of what the server does.
import LinuxIO
import VhostUserFrontend
import Virtqueue

/// A driver of one virtqueue whose requests are all alike: one block, read or written. Plain bytes, for one thread; the
/// memory belongs to the front-end.
@safe struct SlotRing: BitwiseCopyable {
    let areas: RingAreas
    private let isPacked: Bool
    private let isIndirect: Bool
    private let eventIndex: Bool
    private let mask: Int
    private let slots: Int
    private let blockBytes: Int
    private let descriptors: UnsafeMutableRawPointer
    private let driver: UnsafeMutableRawPointer
    private let device: UnsafeMutableRawPointer
    private let requestFrames: UnsafeMutableRawPointer
    private let framesGuest: UInt64
    private let data: UnsafeMutableRawPointer
    private let dataGuest: UInt64

    private var nextAvail: UInt16 = 0
    private var availWrap = true
    private var nextUsed: UInt16 = 0
    private var usedWrap = true
    /// Split: the used index as it was read last.
    private var seenUsed: UInt16 = 0
    /// `nextAvail` at the last call of `needsKick`.
    private var kickedAvail: UInt16 = 0
    /// The device answered a request that a driver of this size cannot have sent.
    private(set) var isBroken = false
    /// The last status that was not OK.
    private(set) var lastStatus: UInt8 = 0

    /// Nil when the memory has no room.
    init?(_ memory: DriverMemory, depth: Int, blockBytes: Int, features: RingFeatures, size: Int) {
        isPacked = features.contains(.packed)
        isIndirect = features.contains(.indirect)
        eventIndex = features.contains(.eventIndex)
        let driverBytes = isPacked ? RingLayout.eventBytes : RingLayout.availBytes(size: size)
        let deviceBytes = isPacked ? RingLayout.eventBytes : RingLayout.usedBytes(size: size)
        // On different pages, because driver and device write to different ones.
        guard let descriptorArea = memory.allocate(size * RingLayout.descriptorBytes, alignment: 4096),
            let driverArea = memory.allocate(driverBytes, alignment: 64),
            let deviceArea = memory.allocate(deviceBytes, alignment: 4096),
            let framesGuest = memory.allocate(depth * RequestFrame.bytes, alignment: 4096),
            let dataGuest = memory.allocate(depth * blockBytes, alignment: 4096),
            let descriptors = unsafe memory.host(descriptorArea), let driver = unsafe memory.host(driverArea),
            let device = unsafe memory.host(deviceArea), let requestFrames = unsafe memory.host(framesGuest),
            let data = unsafe memory.host(dataGuest)
        else { return nil }
        areas = RingAreas(size: size, descriptors: descriptorArea, driver: driverArea, device: deviceArea)
        mask = size - 1
        slots = depth
        self.blockBytes = blockBytes
        unsafe self.descriptors = unsafe descriptors
        unsafe self.driver = unsafe driver
        unsafe self.device = unsafe device
        unsafe self.requestFrames = unsafe requestFrames
        self.framesGuest = framesGuest
        unsafe self.data = unsafe data
        self.dataGuest = dataGuest
        for slot in 0..<depth { layOut(slot, withData: true) }
        unsafe fillWithNoise(data, depth * blockBytes)
        disableSignals()
    }

    func buffer(_ slot: Int) -> UnsafeMutableRawPointer { unsafe data + slot * blockBytes }

    // MARK: descriptors

    /// Where the slot's descriptors are: its own table, or three entries of the ring.
    private func table(_ slot: Int) -> UnsafeMutableRawPointer {
        unsafe isIndirect
            ? requestFrames + slot * RequestFrame.bytes + RequestFrame.table
            : descriptors + slot * 3 * RingLayout.descriptorBytes
    }

    /// Writes a slot's descriptors: header, data, status; a flush has no data.
    private func layOut(_ slot: Int, withData: Bool) {
        let card = framesGuest + UInt64(slot * RequestFrame.bytes)
        let first = isIndirect ? 0 : slot * 3
        var place = unsafe table(slot)
        unsafe put(place, card + UInt64(RequestFrame.header), 16, RingLayout.flagNext, first + 1)
        if withData {
            unsafe place += RingLayout.descriptorBytes
            let block = dataGuest + UInt64(slot * blockBytes)
            unsafe put(place, block, UInt32(blockBytes), RingLayout.flagNext | RingLayout.flagWrite, first + 2)
        }
        unsafe put(place + RingLayout.descriptorBytes, card + UInt64(RequestFrame.status), 1, RingLayout.flagWrite, 0)
        if !isPacked, isIndirect {
            let head = unsafe descriptors + slot * RingLayout.descriptorBytes
            unsafe put(head, card + UInt64(RequestFrame.table), withData ? 48 : 32, RingLayout.flagIndirect, 0)
        }
        let type = withData ? VirtioBlk.RequestType.read : VirtioBlk.RequestType.flush
        unsafe header(slot).storeBytes(of: type.littleEndian, as: UInt32.self)
    }

    /// Writes a descriptor. In a packed ring's table the links mean nothing, and flags and id are in the other order.
    private func put(
        _ place: UnsafeMutableRawPointer, _ address: UInt64, _ length: UInt32, _ flags: UInt16, _ next: Int
    ) {
        unsafe place.storeBytes(of: address.littleEndian, as: UInt64.self)
        unsafe place.storeBytes(of: length.littleEndian, toByteOffset: 8, as: UInt32.self)
        let shown = isPacked ? flags & ~RingLayout.flagNext : flags
        unsafe store16(place + (isPacked ? 14 : 12), shown)
        unsafe store16(place + (isPacked ? 12 : 14), UInt16(truncatingIfNeeded: next))
    }

    @inline(__always) private func header(_ slot: Int) -> UnsafeMutableRawPointer {
        unsafe requestFrames + slot * RequestFrame.bytes + RequestFrame.header
    }

    // MARK: publish

    /// Prepares a request on a free slot; the device may see it at once (packed) or sees it after `publish` (split).
    @inline(__always) mutating func submit(_ slot: Int, isWrite: Bool, sector: UInt64) {
        let card = unsafe header(slot)
        let type = isWrite ? VirtioBlk.RequestType.write : VirtioBlk.RequestType.read
        if unsafe card.load(as: UInt32.self) != type.littleEndian { turn(slot, isWrite: isWrite) }
        unsafe card.storeBytes(of: sector.littleEndian, toByteOffset: 8, as: UInt64.self)
        unsafe card.storeBytes(of: 0xff, toByteOffset: RequestFrame.status - RequestFrame.header, as: UInt8.self)
        offer(slot, entries: 3)
    }

    /// Changes a slot's descriptors: its last request was of another type.
    private func turn(_ slot: Int, isWrite: Bool) {
        let type = isWrite ? VirtioBlk.RequestType.write : VirtioBlk.RequestType.read
        layOut(slot, withData: true)
        unsafe header(slot).storeBytes(of: type.littleEndian, as: UInt32.self)
        let link = isPacked ? 0 : RingLayout.flagNext
        unsafe store16(table(slot) + (isPacked ? 30 : 28), isWrite ? link : link | RingLayout.flagWrite)
    }

    @inline(__always) private mutating func offer(_ slot: Int, entries: Int) {
        guard isPacked else {
            let head = UInt16(truncatingIfNeeded: isIndirect ? slot : slot &* 3)
            unsafe store16(driver + RingLayout.availRingOffset + 2 * (Int(nextAvail) & mask), head)
            nextAvail &+= 1
            return
        }
        let place = unsafe descriptors + Int(nextAvail) * RingLayout.descriptorBytes
        let address = framesGuest &+ UInt64(slot &* RequestFrame.bytes)
        unsafe place.storeBytes(of: address.littleEndian, as: UInt64.self)
        let flags = RingLayout.flagIndirect | (availWrap ? RingLayout.flagAvail : RingLayout.flagUsed)
        unsafe release64(place + 8, UInt64(entries &* 16) | UInt64(slot) << 32 | UInt64(flags) << 48)
        step(&nextAvail, &availWrap)
    }

    /// Prepares a flush on a free slot.
    mutating func submitFlush(_ slot: Int) {
        layOut(slot, withData: false)
        unsafe header(slot).storeBytes(of: 0, toByteOffset: 8, as: UInt64.self)
        unsafe header(slot).storeBytes(
            of: 0xff, toByteOffset: RequestFrame.status - RequestFrame.header, as: UInt8.self)
        offer(slot, entries: 2)
    }

    @inline(__always) private func step(_ index: inout UInt16, _ wrap: inout Bool) {
        index &+= 1
        if Int(index) == areas.size {
            index = 0
            wrap.toggle()
        }
    }

    /// Makes what was prepared visible; true when the device wants a kick.
    @inline(__always) mutating func publish() -> Bool {
        if !isPacked { unsafe release16(driver + RingLayout.availIndexOffset, nextAvail) }
        fullFence()
        return needsKick()
    }

    @inline(__always) private mutating func needsKick() -> Bool {
        var old = kickedAvail
        kickedAvail = nextAvail
        if isPacked {
            let flags = unsafe load16(device + RingLayout.eventFlagsOffset)
            guard flags == RingLayout.eventDescriptor else { return flags != RingLayout.eventDisable }
            let wish = unsafe load16(device)
            var event = wish & ~RingLayout.eventWrapBit
            if (wish & RingLayout.eventWrapBit != 0) != availWrap { event &-= UInt16(areas.size) }
            if nextAvail <= old { old &-= UInt16(areas.size) }
            return needsEvent(event, new: nextAvail, old: old)
        }
        guard eventIndex else { return unsafe load16(device) & RingLayout.usedNoNotify == 0 }
        let event = unsafe load16(device + RingLayout.usedRingOffset + RingLayout.usedElementBytes * areas.size)
        return needsEvent(event, new: nextAvail, old: old)
    }
}

// MARK: collect

extension SlotRing {
    /// The next request that is done, or `.none`.
    @inline(__always) mutating func next() -> BenchCompletion {
        isPacked ? nextPacked() : nextSplit()
    }

    @inline(__always) private mutating func nextSplit() -> BenchCompletion {
        if nextUsed == seenUsed {
            seenUsed = unsafe acquire16(device + RingLayout.usedIndexOffset)
            if nextUsed == seenUsed { return .none }
        }
        let place = unsafe device + RingLayout.usedRingOffset + RingLayout.usedElementBytes * (Int(nextUsed) & mask)
        let id = unsafe Int(UInt32(littleEndian: place.load(as: UInt32.self)))
        nextUsed &+= 1
        return finished(isIndirect ? id : id / 3)
    }

    @inline(__always) private mutating func nextPacked() -> BenchCompletion {
        let word = unsafe acquire64(descriptors + Int(nextUsed) * RingLayout.descriptorBytes + 8)
        guard isUsed(UInt16(truncatingIfNeeded: word >> 48), usedWrap) else { return .none }
        step(&nextUsed, &usedWrap)
        return finished(Int(UInt16(truncatingIfNeeded: word >> 32)))
    }

    @inline(__always) private func isUsed(_ flags: UInt16, _ wrap: Bool) -> Bool {
        let both = RingLayout.flagAvail | RingLayout.flagUsed
        return flags & both == (wrap ? both : 0)
    }

    @inline(__always) private mutating func finished(_ slot: Int) -> BenchCompletion {
        guard slot < slots else {
            isBroken = true
            return .none
        }
        let status = unsafe (requestFrames + slot * RequestFrame.bytes + RequestFrame.status).load(as: UInt8.self)
        if status != 0 { lastStatus = status }
        return BenchCompletion(slot: slot, isOK: status == 0)
    }

    /// Whether `count` more requests are done.
    @inline(__always) func isReady(_ count: Int) -> Bool {
        guard isPacked else { return unsafe Int(acquire16(device + RingLayout.usedIndexOffset) &- nextUsed) >= count }
        var at = Int(nextUsed) + count - 1
        var wrap = usedWrap
        if at >= areas.size {
            at -= areas.size
            wrap.toggle()
        }
        return unsafe isUsed(acquire16(descriptors + at * RingLayout.descriptorBytes + 14), wrap)
    }

    // MARK: signals

    /// Tells the device that no signal is needed.
    func disableSignals() {
        if isPacked {
            unsafe store16(driver + RingLayout.eventFlagsOffset, RingLayout.eventDisable)
        } else if eventIndex {
            // The position that is furthest away.
            unsafe store16(driver + RingLayout.availRingOffset + 2 * areas.size, nextUsed &- 1)
        } else {
            unsafe store16(driver, RingLayout.availNoInterrupt)
        }
    }

    /// Asks for a signal when `count` more requests are done (without EVENT_IDX: at the next one). True when they are
    /// done already, and no signal will come.
    func enableSignals(after count: Int) -> Bool {
        if !eventIndex {
            if isPacked {
                unsafe store16(driver + RingLayout.eventFlagsOffset, RingLayout.eventEnable)
            } else {
                unsafe store16(driver, 0)
            }
            fullFence()
            return isReady(1)
        }
        if isPacked {
            var at = Int(nextUsed) + count - 1
            var wrap = usedWrap
            if at >= areas.size {
                at -= areas.size
                wrap.toggle()
            }
            unsafe store16(driver, UInt16(at) | (wrap ? RingLayout.eventWrapBit : 0))
            unsafe release16(driver + RingLayout.eventFlagsOffset, RingLayout.eventDescriptor)
        } else {
            unsafe store16(driver + RingLayout.availRingOffset + 2 * areas.size, nextUsed &+ UInt16(count - 1))
        }
        fullFence()
        return isReady(count)
    }
}
