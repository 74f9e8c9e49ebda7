// A guest's memory: which of its physical addresses are where in this process. The regions change while requests are in
// flight, so they are kept in immutable snapshots: a request keeps the snapshot with which it was read, and memory that
// a snapshot in use names is not unmapped.

/// A byte position in the guest's physical memory.
@frozen public struct GuestAddress: Hashable, Comparable, Sendable, BitwiseCopyable {
    /// The address, in bytes.
    public var raw: UInt64
    /// Any number is an address; whether there is memory behind it is a question for a snapshot.
    @inlinable public init(_ raw: UInt64) { self.raw = raw }
    /// Orders by address.
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.raw < b.raw }
}

/// A range of guest memory that is also contiguous in this process's address space.
@safe @frozen public struct GuestRegion: BitwiseCopyable {
    /// The region's first address in the guest.
    public var guest: GuestAddress
    /// Bytes; 0 only in the one region of an empty snapshot.
    public var size: UInt64
    /// The region's first address in the front-end: vhost-user gives ring addresses that way.
    public var user: UInt64
    /// The region's first byte in this process.
    public var host: UnsafeMutableRawPointer

    /// Nothing is checked: `GuestMemory` does. `user` nil: the front-end uses the guest's addresses.
    @inlinable public init(guest: GuestAddress, size: UInt64, user: UInt64? = nil, host: UnsafeMutableRawPointer) {
        self.guest = guest
        self.size = size
        self.user = user ?? guest.raw
        unsafe self.host = unsafe host
    }
}

/// The regions at one moment, sorted by guest address. Plain bytes: a request has a copy without counting references.
@safe @frozen public struct GuestMemorySnapshot: BitwiseCopyable {
    /// Never empty: without regions it holds one of size 0, so that the region of the last address can always be looked
    /// at.
    @usableFromInline let regions: UnsafePointer<GuestRegion>
    /// Number of regions.
    public let count: Int32
    /// Rises with every change of the regions.
    public let generation: UInt32
}

/// The mapping of the guest's memory and the snapshots of it that are still in use. For one thread, the one that
/// handles the session.
///
/// A change goes in three steps: `replace` makes the next snapshot; every queue adopts it between two requests; when
/// no queue holds a request of an older one (`Virtqueue.isSettled`), `release` frees the old tables and the caller
/// may unmap what only they named.
public final class GuestMemory {
    /// QEMU has at most 509 memory slots; more regions than this are a mistake or an attack.
    public static let maxRegions = 512

    /// The current regions, for `Virtqueue.init` and `adopt`. Valid until `releaseRetired` after the next `replace`.
    public private(set) var snapshot: GuestMemorySnapshot
    private var retired: [GuestMemorySnapshot] = []

    /// Memory of these regions, in any order; generation 1. Throws as `replace` does.
    public init(_ regions: [GuestRegion] = []) throws(VirtqueueError) {
        snapshot = try Self.table(regions, generation: 1)
    }

    deinit {
        for old in retired { unsafe old.regions.deallocate() }
        unsafe snapshot.regions.deallocate()
    }

    /// Makes `regions` the guest's memory from the next `adopt` on, and returns their snapshot. Throws
    /// `.tooManyRegions`, `.regionOverflows` for one that is empty or whose last byte has no address, and
    /// `.regionsOverlap`; nothing has changed then.
    @discardableResult
    public func replace(_ regions: [GuestRegion]) throws(VirtqueueError) -> GuestMemorySnapshot {
        let next = try Self.table(regions, generation: snapshot.generation &+ 1)
        retired.append(snapshot)
        snapshot = next
        return next
    }

    /// Frees every snapshot but the current one. To be called only when no queue uses an older one any more.
    public func releaseRetired() {
        for old in retired { unsafe old.regions.deallocate() }
        retired = []
    }

    /// The current regions, sorted by guest address.
    public var regions: [GuestRegion] {
        (0..<Int(snapshot.count)).map { unsafe snapshot.regions[$0] }
    }

    private static func table(
        _ regions: [GuestRegion], generation: UInt32
    ) throws(VirtqueueError) -> GuestMemorySnapshot {
        guard regions.count <= maxRegions else { throw .tooManyRegions(regions.count) }
        let sorted = regions.sorted { $0.guest < $1.guest }
        for (i, region) in sorted.enumerated() {
            let host = unsafe UInt64(UInt(bitPattern: region.host))
            // The last byte must have an address; one past it need not.
            guard region.size > 0, !region.guest.raw.addingReportingOverflow(region.size - 1).overflow,
                !host.addingReportingOverflow(region.size).overflow,
                !region.user.addingReportingOverflow(region.size - 1).overflow
            else { throw .regionOverflows(region.guest) }
            if i > 0, region.guest.raw - sorted[i - 1].guest.raw < sorted[i - 1].size {
                throw .regionsOverlap(region.guest)
            }
        }
        let table = UnsafeMutablePointer<GuestRegion>.allocate(capacity: max(sorted.count, 1))
        let nowhere = UnsafeMutableRawPointer(table)
        unsafe table.initialize(to: GuestRegion(guest: GuestAddress(0), size: 0, host: nowhere))
        for (i, region) in sorted.enumerated() { unsafe (table + i).initialize(to: region) }
        return unsafe GuestMemorySnapshot(
            regions: UnsafePointer(table), count: Int32(sorted.count), generation: generation)
    }
}

/// For one thread; what other threads get is the snapshot.
@available(*, unavailable) extension GuestMemory: Sendable {}
/// The table is immutable and outlives its users by the rule above.
extension GuestMemorySnapshot: @unchecked Sendable {}
/// Names memory; reading or writing it is what needs care.
extension GuestRegion: @unchecked Sendable {}
