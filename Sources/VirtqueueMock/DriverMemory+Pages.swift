// Guest memory without a guest and without a mapping shared with a server: ordinary pages of this process, for tests,
// fuzzers and cost measurements.
import Glibc
public import Virtqueue

extension DriverMemory {
    /// Fresh zeroed memory. Every region has pages without access around it, so that a step outside is seen. Ends the
    /// process where there is no memory.
    public convenience init(_ regions: [(guest: UInt64, bytes: Int)]) {
        let pages = regions.map { GuardedPages($0.bytes) }
        let mapped = zip(regions, pages).map { region, pages in
            unsafe GuestRegion(guest: GuestAddress(region.guest), size: UInt64(region.bytes), host: pages.start)
        }
        self.init(adopting: mapped, owner: GuardedRegions(pages))
    }
}

/// Zeroed memory between two pages without access.
@safe private final class GuardedPages {
    let start: UnsafeMutableRawPointer
    private let bytes: Int
    private static let page = 4096

    init(_ count: Int) {
        bytes = (count + Self.page - 1) & ~(Self.page - 1)
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        guard let base = unsafe mmap(nil, bytes + 2 * Self.page, PROT_NONE, flags, -1, 0), unsafe base != MAP_FAILED,
            unsafe mprotect(base + Self.page, bytes, PROT_READ | PROT_WRITE) == 0
        else {
            unsafe perror("mock guest memory")
            exit(1)
        }
        unsafe start = unsafe base + Self.page
    }

    deinit { unsafe munmap(start - Self.page, bytes + 2 * Self.page) }
}

/// Some of them, as one owner.
private final class GuardedRegions {
    let pages: [GuardedPages]
    init(_ pages: [GuardedPages]) { self.pages = pages }
}
