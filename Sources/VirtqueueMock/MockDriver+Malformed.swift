// What a driver that breaks the rules can write, one store at a time. The mock's own records of free descriptors do not
// follow: a test that uses these functions collects its buffers by hand.
import Virtqueue

extension MockDriver {
    /// Writes one descriptor of the ring, of `length` bytes at the guest's `address`. `next`: link (split) or buffer id
    /// (packed). Without `flags` they stay as they are, which in a packed ring means: not available yet.
    public func writeDescriptor(_ index: Int, address: UInt64, length: UInt32, flags: UInt16?, next: UInt16) {
        let place = unsafe descriptors + index * RingLayout.descriptorBytes
        unsafe place.storeBytes(of: address.littleEndian, as: UInt64.self)
        unsafe place.storeBytes(of: length.littleEndian, toByteOffset: 8, as: UInt32.self)
        unsafe store16(place + (isPacked ? 12 : 14), next)
        if let flags { unsafe store16(place + (isPacked ? 14 : 12), flags) }
    }

    /// Split: makes a head available, whatever its descriptor says.
    public func publishHead(_ head: UInt16) {
        unsafe store16(driver + RingLayout.availRingOffset + 2 * (Int(nextAvail) % size), head)
        nextAvail &+= 1
        unsafe release16(driver + RingLayout.availIndexOffset, nextAvail)
    }

    /// Split: sets avail.idx, whatever the ring has.
    public func claimAvailIndex(_ index: UInt16) {
        unsafe release16(driver + RingLayout.availIndexOffset, index)
    }

    /// Packed: writes one descriptor as available in the current lap, with further flags, and steps on.
    public func publishEntry(address: UInt64, length: UInt32, flags: UInt16, id: UInt16) {
        let own = availWrap ? RingLayout.flagAvail : RingLayout.flagUsed
        writeDescriptor(Int(nextAvail), address: address, length: length, flags: flags | own, next: id)
        advance(&nextAvail, &availWrap, 1)
    }

    /// Packed: what the device wrote at an entry of the ring, whether the device has given the entry back or not.
    public func usedEntry(_ index: Int) -> MockUsed {
        let word = unsafe load64(descriptors + index * RingLayout.descriptorBytes + 8)
        return MockUsed(id: UInt16(truncatingIfNeeded: word >> 32), written: UInt32(truncatingIfNeeded: word))
    }

    /// Publishes a chain of descriptors with flags and links as given, direct, from descriptor `first` on (split) or
    /// from the next entry on (packed, where `next` is the id and the bits of availability are added).
    public func publishRaw(
        _ list: [(address: UInt64, length: UInt32, flags: UInt16, next: UInt16)], first: Int = 0
    ) {
        if isPacked {
            // From the last to the first, so that the chain is complete before its head is available.
            let start = nextAvail
            let startWrap = availWrap
            for (i, item) in list.enumerated().reversed() {
                nextAvail = start
                availWrap = startWrap
                advance(&nextAvail, &availWrap, i)
                publishEntry(address: item.address, length: item.length, flags: item.flags, id: item.next)
            }
            nextAvail = start
            availWrap = startWrap
            advance(&nextAvail, &availWrap, list.count)
        } else {
            for (i, item) in list.enumerated() {
                writeDescriptor(
                    (first + i) % size, address: item.address, length: item.length, flags: item.flags,
                    next: item.next)
            }
            publishHead(UInt16(first))
        }
    }

    /// Writes an indirect table at a guest address.
    public func writeTable(
        at address: UInt64, _ list: [(address: UInt64, length: UInt32, flags: UInt16, next: UInt16)]
    ) {
        for (i, item) in list.enumerated() {
            let place = address &+ UInt64(i * RingLayout.descriptorBytes)
            memory.store(item.address, at: place)
            memory.store(item.length, at: place &+ 8)
            memory.store(isPacked ? item.next : item.flags, at: place &+ 12)
            memory.store(isPacked ? item.flags : item.next, at: place &+ 14)
        }
    }
}
