// Why this file exists: live migration copies the guest's memory while it runs, and copies again what was written
// meanwhile. Whatever this process writes into the guest is marked in a bitmap that the front-end shares: a bit for
// each page of 4 KiB, by guest address, set after the write.
import Glibc
import Synchronization

/// The shared bitmap of dirty pages.
public struct DirtyLog: BitwiseCopyable {
    public static let pageBits: UInt64 = 12

    let bits: UnsafeMutableRawPointer?
    let bytes: UInt64

    /// No migration is on.
    public static let off = DirtyLog(bits: nil, bytes: 0)

    private init(bits: UnsafeMutableRawPointer?, bytes: UInt64) {
        self.bits = bits
        self.bytes = bytes
    }
    /// `bytes` of shared memory at `bits`; pages beyond it are not logged.
    public init(bits: UnsafeMutableRawPointer, bytes: Int) {
        self.init(bits: bits, bytes: UInt64(max(bytes, 0)))
    }

    @inline(__always) var isOn: Bool { bits != nil }

    /// Marks the pages of `length` bytes at the guest's `address`.
    public func mark(_ address: UInt64, _ length: UInt64) {
        guard let bits, length > 0, bytes > 0 else { return }
        let last = address.addingReportingOverflow(length - 1)
        var page = address >> Self.pageBits
        let end = min((last.overflow ? UInt64.max : last.partialValue) >> Self.pageBits, bytes &* 8 &- 1)
        while page <= end {
            let byte = (bits + Int(truncatingIfNeeded: page >> 3)).assumingMemoryBound(to: Atomic<UInt8>.self)
            byte.pointee.bitwiseOr(1 << UInt8(truncatingIfNeeded: page & 7), ordering: .releasing)
            page &+= 1
        }
    }
}

extension Virtqueue {
    /// Logs from now on, or stops to. `ring`: also what is written into the ring itself (VHOST_VRING_F_LOG), which the
    /// guest has at `usedGuestAddress` (nil: as it was).
    public mutating func setLog(_ log: DirtyLog, ring: Bool, usedGuestAddress: GuestAddress? = nil) {
        self.log = log
        if let usedGuestAddress { self.usedGuestAddress = usedGuestAddress.raw }
        logRing = ring && log.isOn
        refresh()
    }

    /// All that the device may have written for this request, found by the snapshot it was read with.
    @inline(never) mutating func logWritten(_ chain: UnsafeMutablePointer<DescriptorChain>) {
        let memory = chain.pointee.memory
        for i in 0..<Int(chain.pointee.writableCount) {
            let buffer = chain.pointee.writable[i]
            guard let base = buffer.iov_base, let address = memory.guestAddress(of: base) else { continue }
            log.mark(address, UInt64(buffer.iov_len))
        }
        if let status = chain.pointee.lastWritable, let address = memory.guestAddress(of: status) {
            log.mark(address, 1)
        }
    }

    /// `bytes` at `offset` of the part of the ring that the device writes.
    @inline(never) mutating func logRingWrite(_ offset: Int, _ bytes: Int) {
        log.mark(usedGuestAddress &+ UInt64(offset), UInt64(bytes))
    }
}

/// A window on shared memory, marked with atomic operations only.
extension DirtyLog: @unchecked Sendable {}
