// A guest's memory without a guest: ordinary host memory under guest addresses, in as many regions as a test wants,
// from which the mock driver allocates. Only tests, fuzzers and the benchmark use it.
import Glibc
public import Virtqueue

/// Guest memory in this process. Every region has pages without access around it, so that an access outside ends the
/// process.
public final class MockMemory {
    /// The regions, in the order in which they were asked for.
    public let regions: [GuestRegion]
    private let isOwner: Bool
    private var next: [UInt64]

    /// Maps zeroed memory for each region, of `bytes` bytes at the guest address `guest`. Ends the process when there
    /// is no memory.
    public init(_ regions: [(guest: UInt64, bytes: Int)]) {
        self.regions = regions.map { region in
            let host = Self.map(region.bytes)
            return GuestRegion(guest: GuestAddress(region.guest), size: UInt64(region.bytes), host: host)
        }
        isOwner = true
        next = self.regions.map(\.guest.raw)
    }

    /// Memory that another object owns and keeps mapped, as a mapping shared with a server.
    public init(adopting regions: [GuestRegion]) {
        self.regions = regions
        isOwner = false
        next = regions.map(\.guest.raw)
    }

    deinit {
        guard isOwner else { return }
        for region in regions { munmap(region.host - Self.page, Self.pages(Int(region.size)) + 2 * Self.page) }
    }

    private static let page = 4096
    private static func pages(_ bytes: Int) -> Int { (bytes + page - 1) & ~(page - 1) }

    /// Zeroed memory between two guard pages.
    private static func map(_ bytes: Int) -> UnsafeMutableRawPointer {
        let whole = pages(bytes) + 2 * page
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let base = mmap(nil, whole, PROT_NONE, flags, -1, 0), base != MAP_FAILED,
            mprotect(base + page, pages(bytes), PROT_READ | PROT_WRITE) == 0
        else {
            perror("mock guest memory")
            exit(1)
        }
        return base + page
    }

    /// Makes the memory as new: what was allocated is zeroed, and free.
    public func reset() {
        for (i, region) in regions.enumerated() {
            let used = min(next[i] - region.guest.raw + 4096, region.size)
            region.host.initializeMemory(as: UInt8.self, repeating: 0, count: Int(used))
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
            if offset < region.size { return region.host + Int(offset) }
        }
        return nil
    }

    /// Writes bytes from a guest address on; those outside the regions are dropped.
    public func write(_ bytes: [UInt8], at address: UInt64) {
        for (i, byte) in bytes.enumerated() {
            host(address &+ UInt64(i))?.storeBytes(of: byte, as: UInt8.self)
        }
    }
    /// Reads bytes from a guest address on; those outside the regions are 0.
    public func read(_ count: Int, at address: UInt64) -> [UInt8] {
        (0..<count).map { host(address &+ UInt64($0))?.load(as: UInt8.self) ?? 0 }
    }
    /// Writes a little-endian integer at a guest address.
    public func store<T: FixedWidthInteger>(_ value: T, at address: UInt64) {
        write((0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }, at: address)
    }
    /// Reads a little-endian integer at a guest address.
    public func load<T: FixedWidthInteger>(_: T.Type, at address: UInt64) -> T {
        read(T.bitWidth / 8, at: address).reversed().reduce(0) { $0 << 8 | T(truncatingIfNeeded: $1) }
    }
}

/// For one thread, or for a test that takes care of what it shares.
extension MockMemory: @unchecked Sendable {}
