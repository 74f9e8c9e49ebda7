// When a driver kicks and when it wants a signal, as Linux does it (virtio 1.3, sections 2.7.7, 2.7.10 and 2.8.10).
// This is the half of event suppression that a device under test has to work with.
import Virtqueue

extension MockDriver {
    private static func wants(_ event: UInt16, new: UInt16, old: UInt16) -> Bool {
        new &- event &- 1 < new &- old
    }

    /// Whether the device asked for a kick for what was published since the last call.
    public func needsKick() -> Bool {
        fullFence()
        var old = kickedAvail
        kickedAvail = nextAvail
        if isPacked {
            let flags = unsafe load16(device + RingLayout.eventFlagsOffset)
            guard flags == RingLayout.eventDescriptor else { return flags != RingLayout.eventDisable }
            let wish = unsafe load16(device)
            var event = wish & ~RingLayout.eventWrapBit
            if (wish & RingLayout.eventWrapBit != 0) != availWrap { event &-= UInt16(size) }
            if nextAvail <= old { old &-= UInt16(size) }
            return Self.wants(event, new: nextAvail, old: old)
        }
        guard features.contains(.eventIndex) else { return unsafe load16(device) & RingLayout.usedNoNotify == 0 }
        let event = unsafe load16(device + RingLayout.usedRingOffset + RingLayout.usedElementBytes * size)
        return Self.wants(event, new: nextAvail, old: old)
    }

    /// Tells the device that no signal is needed. A hint: signals may come all the same.
    public func disableSignals() {
        if isPacked {
            unsafe store16(driver + RingLayout.eventFlagsOffset, RingLayout.eventDisable)
        } else if features.contains(.eventIndex) {
            unsafe store16(driver + RingLayout.availRingOffset + 2 * size, nextUsed &- 1)
        } else {
            unsafe store16(driver, RingLayout.availNoInterrupt)
        }
    }

    /// Asks for a signal for the `after`th buffer from now on (1: the next). True when a buffer is back already, for
    /// which no signal will come.
    public func enableSignals(after: Int = 1) -> Bool {
        if isPacked {
            var at = nextUsed
            var wrap = usedWrap
            advance(&at, &wrap, after - 1)
            if features.contains(.eventIndex) {
                unsafe store16(driver, at | (wrap ? RingLayout.eventWrapBit : 0))
                unsafe release16(driver + RingLayout.eventFlagsOffset, RingLayout.eventDescriptor)
            } else {
                unsafe store16(driver + RingLayout.eventFlagsOffset, RingLayout.eventEnable)
            }
        } else if features.contains(.eventIndex) {
            unsafe store16(driver + RingLayout.availRingOffset + 2 * size, nextUsed &+ UInt16(after - 1))
        } else {
            unsafe store16(driver, 0)
        }
        fullFence()
        return hasUsed
    }

    /// Where a device that has lost its memory goes on, as SET_VRING_BASE numbers it: behind what it has given back. In
    /// a packed ring that is known only for what was collected; collect first.
    public var resumePosition: UInt32 {
        guard isPacked else { return unsafe UInt32(acquire16(device + RingLayout.usedIndexOffset)) }
        let position = UInt32(nextUsed) | (usedWrap ? UInt32(RingLayout.eventWrapBit) : 0)
        return position | position << 16
    }

    /// Whether a buffer is back that was not collected yet.
    public var hasUsed: Bool {
        guard isPacked else { return unsafe acquire16(device + RingLayout.usedIndexOffset) != nextUsed }
        let flags = unsafe acquire16(descriptors + Int(nextUsed) * RingLayout.descriptorBytes + 14)
        return flags & (RingLayout.flagAvail | RingLayout.flagUsed)
            == (usedWrap ? RingLayout.flagAvail | RingLayout.flagUsed : 0)
    }
}
