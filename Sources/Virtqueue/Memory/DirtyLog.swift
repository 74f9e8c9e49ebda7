// The bitmap of guest memory that this process has written: a bit for each page of 4 KiB, by guest address, set after
// the write. A front-end shares it during live migration, which copies the guest's memory while it runs, and copies
// again what was written meanwhile.
import Glibc
import Synchronization

/// The shared bitmap of dirty pages (vhost-user specification: "Migration").
@safe public struct DirtyLog: BitwiseCopyable {
    /// Bytes of a page, for which there is one bit: 2 to this power.
    public static let pageBits: UInt64 = 12

    let bits: UnsafeMutableRawPointer?
    let bytes: UInt64

    /// No log: no migration is under way.
    public static let off = unsafe DirtyLog(bits: nil, bytes: 0)

    private init(bits: UnsafeMutableRawPointer?, bytes: UInt64) {
        unsafe self.bits = unsafe bits
        self.bytes = bytes
    }
    /// `bytes` of shared memory at `bits`; pages beyond it are not logged.
    public init(bits: UnsafeMutableRawPointer, bytes: Int) {
        unsafe self.init(bits: bits, bytes: UInt64(max(bytes, 0)))
    }

    @inline(__always) var isOn: Bool { unsafe bits != nil }

    /// Sets the bits of the pages of `length` bytes at the guest's `address`, by atomic operations with release order.
    public func mark(_ address: UInt64, _ length: UInt64) {
        guard let bits = unsafe bits, length > 0, bytes > 0 else { return }
        let last = address.addingReportingOverflow(length - 1)
        var page = address >> Self.pageBits
        let end = min((last.overflow ? UInt64.max : last.partialValue) >> Self.pageBits, bytes &* 8 &- 1)
        while page <= end {
            let byte = unsafe (bits + Int(truncatingIfNeeded: page >> 3)).assumingMemoryBound(to: Atomic<UInt8>.self)
            unsafe byte.pointee.bitwiseOr(1 << UInt8(truncatingIfNeeded: page & 7), ordering: .releasing)
            page &+= 1
        }
    }
}

extension Virtqueue {
    /// Logs from now on, or stops to. `ring`: also what is written to the ring itself (VHOST_VRING_F_LOG). Writes to a
    /// split ring's used area are logged from `usedGuestAddress` on (nil: as it was), as vhost-user has it: the address
    /// may be outside the guest's memory. A packed ring has two areas that the device writes, and the protocol one such
    /// number: both are logged under their addresses in the memory table.
    public mutating func setLog(_ log: DirtyLog, ring: Bool, usedGuestAddress: GuestAddress? = nil) {
        self.log = log
        if let usedGuestAddress, !isPacked { deviceLogAddress = usedGuestAddress.raw }
        logRing = ring && log.isOn
        refresh()
    }

    /// Logs all that the device may have written for this request, under the addresses of the snapshot with which it
    /// was read.
    @inline(never) mutating func logWritten(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        let memory = unsafe chain.pointee.memory
        for i in unsafe 0..<Int(chain.pointee.writableCount) {
            let buffer = unsafe chain.pointee.writable[i]
            guard let base = unsafe buffer.iov_base, let address = unsafe memory.guestAddress(of: base) else {
                continue
            }
            unsafe log.mark(address, UInt64(buffer.iov_len))
        }
        if let status = unsafe chain.pointee.lastWritable, let address = unsafe memory.guestAddress(of: status) {
            log.mark(address, 1)
        }
    }

    /// Sets the addresses under which a ring is logged that starts, or that is at another place in memory now. `used`:
    /// see `setLog`; nil: as it was.
    mutating func setLogAddresses(_ places: RingAddresses, used: GuestAddress?) {
        descriptorsLogAddress = places.descriptorsAddress
        if isPacked { deviceLogAddress = places.deviceAddress } else if let used { deviceLogAddress = used.raw }
    }

    /// Logs `bytes` at `offset` of the device area: the used ring, or a packed ring's event suppression.
    @inline(never) mutating func logDeviceArea(_ offset: Int, _ bytes: Int) {
        log.mark(deviceLogAddress &+ UInt64(offset), UInt64(bytes))
    }

    /// Logs the packed ring's entry at `index`.
    @inline(never) mutating func logEntry(_ index: Int) {
        let bytes = RingLayout.descriptorBytes
        log.mark(descriptorsLogAddress &+ UInt64(index * bytes), UInt64(bytes))
    }

    /// Logs the used element at `position`, a value of `nextUsed`.
    @inline(never) mutating func logUsed(_ position: UInt16) {
        if isPacked {
            // The first entry of a batch is not in the ring before `publish`, which logs it.
            if position != publishedUsed { logEntry(Int(position)) }
        } else {
            let offset = RingLayout.usedRingOffset + RingLayout.usedElementBytes * (Int(position) & mask)
            logDeviceArea(offset, RingLayout.usedElementBytes)
        }
    }
}

/// A window on shared memory, marked with atomic operations only.
extension DirtyLog: @unchecked Sendable {}
