// A guest's memory from the driver's side: host memory under guest addresses, in any number of regions, with a bump
// allocator. The benchmark's client and the tests put rings, headers and data into it.

/// Guest memory in this process, of which a driver hands out pieces.
public final class DriverMemory {
    /// Where each region is, for the guest and for this process.
    public let regions: [GuestRegion]
    /// Keeps the regions mapped.
    private let owner: AnyObject?
    /// The first free guest address of each region.
    private var next: [UInt64]

    /// Zeroed memory that another object owns, which `owner` keeps alive; nil: the caller sees to that.
    public init(adopting regions: [GuestRegion], owner: AnyObject? = nil) {
        self.regions = regions
        self.owner = owner
        next = regions.map(\.guest.raw)
    }

    /// As new: zeroed as far as it was allocated, and free.
    public func reset() {
        for (i, region) in regions.enumerated() {
            let used = min(next[i] - region.guest.raw + 4096, region.size)
            unsafe region.host.initializeMemory(as: UInt8.self, repeating: 0, count: Int(used))
            next[i] = region.guest.raw
        }
    }

    /// Allocates `bytes` in one region, at a multiple of `alignment` (a power of two); the guest address, or nil when
    /// the region is full.
    public func allocate(_ bytes: Int, alignment: UInt64 = 16, region: Int = 0) -> UInt64? {
        let start = (next[region] + alignment - 1) & ~(alignment - 1)
        guard UInt64(bytes) <= regions[region].guest.raw + regions[region].size - start else { return nil }
        next[region] = start + UInt64(bytes)
        return start
    }

    /// Host pointer of a guest address; nil for one outside the regions.
    public func host(_ address: UInt64) -> UnsafeMutableRawPointer? {
        for region in regions {
            let offset = address &- region.guest.raw
            if offset < region.size { return unsafe region.host + Int(offset) }
        }
        return nil
    }

    /// Writes the bytes that lie inside the regions; others are dropped.
    public func write(_ bytes: [UInt8], at address: UInt64) {
        for (i, byte) in bytes.enumerated() {
            unsafe host(address &+ UInt64(i))?.storeBytes(of: byte, as: UInt8.self)
        }
    }
    /// `count` bytes; 0 for each that lies outside.
    public func read(_ count: Int, at address: UInt64) -> [UInt8] {
        (0..<count).map { unsafe host(address &+ UInt64($0))?.load(as: UInt8.self) ?? 0 }
    }
    /// Writes a little-endian integer.
    public func store<T: FixedWidthInteger>(_ value: T, at address: UInt64) {
        write((0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }, at: address)
    }
    /// Reads a little-endian integer; bytes outside the regions are 0.
    public func load<T: FixedWidthInteger>(_: T.Type, at address: UInt64) -> T {
        read(T.bitWidth / 8, at: address).reversed().reduce(0) { $0 << 8 | T(truncatingIfNeeded: $1) }
    }
}

/// Bound to one thread, or to a test that knows what it shares.
extension DriverMemory: @unchecked Sendable {}
