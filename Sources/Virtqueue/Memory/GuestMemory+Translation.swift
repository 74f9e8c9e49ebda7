// Translates guest addresses to host pointers; no other file computes one from the other. Nothing that a guest writes
// may make it trap or point outside a region, so every sum is checked by subtraction from a known number.

extension GuestMemorySnapshot {
    /// Index of the region that holds `address`; -1 when none does.
    func index(of address: UInt64) -> Int {
        var low = 0
        var high = Int(count)
        while low < high {
            let middle = (low &+ high) >> 1
            if unsafe regions[middle].guest.raw <= address { low = middle &+ 1 } else { high = middle }
        }
        guard low > 0, unsafe address &- regions[low &- 1].guest.raw < regions[low &- 1].size else { return -1 }
        return low &- 1
    }

    /// The host memory at `address` and how many bytes (at most `length`) follow it in its region; nil when `address`
    /// is outside the memory. `region` is a guess, the region of the address before; it is set to the one that was
    /// found.
    func piece(
        at address: UInt64, length: UInt64, region: inout UnsafePointer<GuestRegion>
    ) -> (host: UnsafeMutableRawPointer, length: UInt64)? {
        if unsafe address &- region.pointee.guest.raw >= region.pointee.size {
            let found = index(of: address)
            guard found >= 0 else { return nil }
            unsafe region = unsafe regions + found
        }
        let offset = unsafe address &- region.pointee.guest.raw
        let room = unsafe region.pointee.size &- offset
        return unsafe (region.pointee.host + Int(truncatingIfNeeded: offset), min(length, room))
    }

    /// `length` bytes at `address`, when they are in one region; nil otherwise.
    public func contiguous(_ address: GuestAddress, _ length: UInt64) -> UnsafeMutableRawPointer? {
        var region = unsafe regions
        guard let found = unsafe piece(at: address.raw, length: length, region: &region), unsafe found.length == length
        else {
            return nil
        }
        return unsafe found.host
    }

    /// The same for an address in the front-end's own address space.
    public func contiguous(user address: UInt64, _ length: UInt64) -> UnsafeMutableRawPointer? {
        for i in 0..<Int(count) {
            let offset = unsafe address &- regions[i].user
            if unsafe offset < regions[i].size, unsafe length <= regions[i].size - offset {
                return unsafe regions[i].host + Int(truncatingIfNeeded: offset)
            }
        }
        return nil
    }

    /// Copies `length` bytes at `address` out, over region borders; false when some of them are outside the memory.
    func copyOut(
        _ address: UInt64, to target: UnsafeMutableRawPointer, length: Int, region: inout UnsafePointer<GuestRegion>
    ) -> Bool {
        var done = 0
        while done < length {
            // An address that wraps around starts again at 0, which the driver did not ask for.
            let (at, overflow) = address.addingReportingOverflow(UInt64(done))
            guard !overflow, let found = unsafe piece(at: at, length: UInt64(length - done), region: &region)
            else { return false }
            unsafe (target + done).copyMemory(from: found.host, byteCount: Int(found.length))
            unsafe done += Int(found.length)
        }
        return true
    }

    /// The guest's address of a host pointer that came out of this snapshot; nil for any other.
    func guestAddress(of host: UnsafeRawPointer) -> UInt64? {
        let position = UInt(bitPattern: host)
        for i in 0..<Int(count) {
            let offset = unsafe UInt64(position &- UInt(bitPattern: regions[i].host))
            if unsafe offset < regions[i].size { return unsafe regions[i].guest.raw &+ offset }
        }
        return nil
    }
}
