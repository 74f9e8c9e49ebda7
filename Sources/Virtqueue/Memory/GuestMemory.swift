// A guest names memory by its own physical addresses, the host has it mapped in pieces, and the set of pieces changes
// while requests are in flight. A snapshot is one immutable answer to "where is it"; a request keeps the snapshot it
// was read with, and memory that a snapshot in use names is not unmapped.

/// A byte position in the guest's physical memory.
@frozen public struct GuestAddress: Hashable, Comparable, Sendable, BitwiseCopyable {
    public var raw: UInt64
    @inlinable public init(_ raw: UInt64) { self.raw = raw }
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.raw < b.raw }
}

/// A piece of guest memory that is one piece in the host's address space too.
@frozen public struct GuestRegion: BitwiseCopyable {
    public var guest: GuestAddress
    /// Bytes; 0 only in the one region of an empty snapshot.
    public var size: UInt64
    /// The same piece in the front-end's own address space: vhost-user gives ring addresses that way.
    public var user: UInt64
    public var host: UnsafeMutableRawPointer

    @inlinable public init(guest: GuestAddress, size: UInt64, user: UInt64? = nil, host: UnsafeMutableRawPointer) {
        self.guest = guest
        self.size = size
        self.user = user ?? guest.raw
        self.host = host
    }
}

/// The regions at one moment, sorted by guest address. Plain bytes: a request carries it without counting references.
@frozen public struct GuestMemorySnapshot: BitwiseCopyable {
    /// Never empty: without regions it holds one of size 0, so that the last hit can always be looked at.
    @usableFromInline let regions: UnsafePointer<GuestRegion>
    public let count: Int32
    /// Rises with every change of the regions.
    public let generation: UInt32
}

/// The mapping of the guest's memory and the snapshots of it that are still in use. Belongs to the control thread.
///
/// A change goes in three steps: `replace` makes the next snapshot; every queue adopts it between two requests; when
/// no queue holds a request of an older one (`Virtqueue.isSettled`), `release` frees the old tables and the caller
/// may unmap what only they named.
public final class GuestMemory {
    /// QEMU has at most 509 memory slots; more regions than this are a mistake or an attack.
    public static let maxRegions = 512

    public private(set) var snapshot: GuestMemorySnapshot
    private var retired: [GuestMemorySnapshot] = []

    public init(_ regions: [GuestRegion] = []) throws(VirtqueueError) {
        snapshot = try Self.table(regions, generation: 1)
    }

    deinit {
        for old in retired { old.regions.deallocate() }
        snapshot.regions.deallocate()
    }

    /// Makes `regions` the memory of the guest from the next `adopt` on.
    @discardableResult
    public func replace(_ regions: [GuestRegion]) throws(VirtqueueError) -> GuestMemorySnapshot {
        let next = try Self.table(regions, generation: snapshot.generation &+ 1)
        retired.append(snapshot)
        snapshot = next
        return next
    }

    /// Frees every snapshot but the current one. Only when no queue uses an older one any more.
    public func releaseRetired() {
        for old in retired { old.regions.deallocate() }
        retired = []
    }

    /// Snapshots that wait for their last request.
    public var retiredCount: Int { retired.count }

    /// The current regions, sorted.
    public var regions: [GuestRegion] {
        (0..<Int(snapshot.count)).map { snapshot.regions[$0] }
    }

    private static func table(
        _ regions: [GuestRegion], generation: UInt32
    ) throws(VirtqueueError) -> GuestMemorySnapshot {
        guard regions.count <= maxRegions else { throw .tooManyRegions(regions.count) }
        let sorted = regions.sorted { $0.guest < $1.guest }
        for (i, region) in sorted.enumerated() {
            let host = UInt64(UInt(bitPattern: region.host))
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
        table.initialize(to: GuestRegion(guest: GuestAddress(0), size: 0, host: nowhere))
        for (i, region) in sorted.enumerated() { (table + i).initialize(to: region) }
        return GuestMemorySnapshot(
            regions: UnsafePointer(table), count: Int32(sorted.count), generation: generation)
    }
}

/// Bound to the control thread; what crosses threads is the snapshot.
@available(*, unavailable) extension GuestMemory: Sendable {}
/// The table is immutable and outlives its users by the rule above.
extension GuestMemorySnapshot: @unchecked Sendable {}
/// Names memory; reading or writing it is what needs care.
extension GuestRegion: @unchecked Sendable {}
