// A copy of a guest's memory that is kept up to date as a live migration keeps it: by the pages that the dirty log names,
// and nothing else. Where it differs from the guest's memory in the end, a byte was written and its page not marked.
import Foundation
import Glibc
import LinuxIO
import Synchronization
import Virtqueue
import VirtqueueMock

/// A dirty log in memory that is shared with the server: a bit for each 4096 bytes, from guest address 0.
final class SharedLog {
    let memory: SharedMemory

    init(pages: UInt64) throws { memory = try SharedMemory("log", count: Int((pages + 8 * 4096 - 1) / 8) & ~4095) }

    /// The marked pages, which are unmarked again: each byte in one step, as the server may mark others meanwhile.
    func take() -> Set<UInt64> {
        var pages: Set<UInt64> = []
        for index in 0..<memory.count {
            let place = (memory.pointer + index).assumingMemoryBound(to: Atomic<UInt8>.self)
            guard place.pointee.load(ordering: .relaxed) != 0 else { continue }
            let byte = place.pointee.exchange(0, ordering: .acquiringAndReleasing)
            for bit in 0..<8 where byte >> bit & 1 != 0 { pages.insert(UInt64(index * 8 + bit)) }
        }
        return pages
    }
}

/// Bound to one thread at a time.
final class MemoryReplica {
    let log: SharedLog
    private let memory: DriverMemory
    private let copies: [UnsafeMutableRawPointer]
    /// All pages that the log has named since `copyAll`.
    private(set) var marked: Set<UInt64> = []
    /// Marks of these pages are overlooked: a planted bug.
    var overlooked: Set<UInt64> = []

    init(of memory: DriverMemory) throws {
        self.memory = memory
        let last = memory.regions.map { ($0.guest.raw + $0.size) >> 12 }.max() ?? 0
        log = try SharedLog(pages: last)
        copies = memory.regions.map { .allocate(byteCount: Int($0.size), alignment: 4096) }
    }

    deinit { for copy in copies { copy.deallocate() } }

    /// The first pass of a migration: everything, from here on changes only. The server must not write meanwhile.
    func copyAll() {
        _ = log.take()
        marked = []
        for (region, copy) in zip(memory.regions, copies) { memcpy(copy, region.host, Int(region.size)) }
    }

    /// A later pass: what was marked since the last. The server may write meanwhile; it marks that again.
    func copyMarked() {
        let pages = log.take()
        marked.formUnion(pages)
        for page in pages.subtracting(overlooked) { copy(page) }
    }

    private func copy(_ page: UInt64) {
        for (region, copy) in zip(memory.regions, copies) {
            let offset = page << 12 &- region.guest.raw
            guard offset < region.size else { continue }
            memcpy(copy + Int(offset), region.host + Int(offset), Int(min(4096, region.size - offset)))
        }
    }

    /// Pages in which a byte differs from the guest's. Empty: all that the server has written was marked, after it.
    func differences() -> Set<UInt64> {
        var pages: Set<UInt64> = []
        for (region, copy) in zip(memory.regions, copies) where memcmp(copy, region.host, Int(region.size)) != 0 {
            for offset in stride(from: 0, to: Int(region.size), by: 4096)
            where memcmp(copy + offset, region.host + offset, min(4096, Int(region.size) - offset)) != 0 {
                pages.insert((region.guest.raw + UInt64(offset)) >> 12)
            }
        }
        return pages
    }
}

/// The test's main thread looks at it only while no other copies.
extension MemoryReplica: @unchecked Sendable {}
