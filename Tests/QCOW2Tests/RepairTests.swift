// A repair may be cut off anywhere. Whatever of its writes has reached the medium by then, the image must be no worse
// than before, the guest's bytes must be where they were, and a second repair must finish the work.

import DiskTypes
import TestKit
import Testing

@testable import QCOW2

@Suite("Repair of an image in memory")
struct RepairTests {
    static let orders = UInt32(0)...6

    /// Damage that can be put right: the refcounts and flags of an image follow from its tables.
    static let repairable: [CheckTests.Damage] = [
        .init("refcounts gone", "") { image in for cluster in 0..<23 { image.setCount(0, of: cluster) } },
        .init("refcounts too high", "") { image in for cluster in 0..<23 { image.setCount(3, of: cluster) } },
        .init("leaks", "") { image in for _ in 0..<5 { _ = image.append() } },
        .init("flags clear", "") { image in
            for entry in 0..<8 { image.setEntry(0, entry, image.entry(0, entry) & ~(1 << 63)) }
        },
        .init("a cluster shared behind its back", "") { $0.setEntry(1, 30, $0.entry(0, 3)) },
        .init("no refcount table", "") { $0.image.put(UInt32(0), at: 56) },
        .init("the refcount table past the end", "") { $0.image.put(UInt64(1 << 50), at: 48) },
        .init("no refcount block", "") { $0.image.put(UInt64(0), at: 512) },
        .init("a refcount block past the end", "") { $0.image.put(UInt64(1 << 50), at: 512) },
        .init("the refcount table over the L1 table", "") { $0.image.put(UInt64(CountedImage.l1 * 512), at: 48) },
        .init("data over a refcount block", "") { $0.setEntry(0, 20, 1 << 63 | 1024) },
        .init("COPIED on a compressed cluster", "") { $0.setEntry(0, 3, 3 << 62 | UInt64($0.host(0, 3) * 512)) },
        .init("dirty, corrupt and behind", "") { image in
            image.image.put(UInt64(3), at: 72)
            for entry in 0..<8 { image.setCount(0, of: image.host(1, entry)) }
        },
    ]

    @Test("-r all makes it clean and leaves every entry where it pointed", arguments: repairable)
    func all(damage: CheckTests.Damage) throws {
        var image = CountedImage()
        damage.make(&image)
        let before = try image.check()
        let (after, storage) = try image.repaired()
        #expect(after.verdict == .clean, "\(after.findings)")
        #expect(after.corruptionsFixed == before.corruptions && after.leaksFixed == before.leaks)
        #expect(guestView(storage.bytes) == guestView(image.image.bytes))
    }

    @Test("lost refcounts are put right whatever their width", arguments: orders)
    func widths(order: UInt32) throws {
        var image = CountedImage(order: order)
        for cluster in 0..<23 { image.setCount(0, of: cluster) }
        #expect(try image.repaired().0.verdict == .clean)
    }

    @Test("a lost structure is made anew whatever the width", arguments: orders)
    func rebuilt(order: UInt32) throws {
        var image = CountedImage(order: order)
        image.image.put(UInt32(0), at: 56)
        let (after, storage) = try image.repaired()
        #expect(after.verdict == .clean, "\(after.findings)")
        #expect(try Header(BigEndianBytes(Array(storage.bytes.prefix(512)))).refcountTableClusters > 0)
    }

    /// The file would grow over them, and what was cut off would read as zeros.
    @Test("no new structure where entries name clusters past the end")
    func keepsOffDangling() throws {
        var image = CountedImage()
        image.image.put(UInt32(0), at: 56)
        let end = UInt64(image.image.bytes.count / 512)
        image.setEntry(0, 20, 1 << 63 | (end + 1) * 512)
        let storage = image.storage
        #expect(throws: ImageError.self) { try ImageCheck.repair(storage, .all) }
        #expect(storage.steps.isEmpty)
    }

    @Test("-r leaks gives leaks back and touches nothing else")
    func leaks() throws {
        var image = CountedImage()
        _ = image.append()
        image.setEntry(0, 3, image.entry(0, 3) & ~(1 << 63))
        let (after, storage) = try image.repaired(.leaks)
        #expect(after.leaks == 0 && after.leaksFixed == 1 && after.corruptions == 1)
        #expect(storage.steps.filter { $0 != .sync }.count == 1)
    }

    @Test("while an entry is damaged, what seems unused is kept", arguments: [RepairMode.leaks, .all])
    func keepsLeaks(mode: RepairMode) throws {
        var image = CountedImage()
        let host = image.host(0, 3)
        image.setEntry(0, 3, image.entry(0, 3) | 1 << 40)
        let (after, storage) = try image.repaired(mode)
        #expect(after.leaks == 1 && after.keepsLeaks != nil)
        let block = Array(storage.bytes[1024..<1536])
        #expect(RefcountBlock.load(block, host, order: 4) == 1)
    }

    @Test("the dirty and corrupt bits go last, after everything else is durable")
    func bitsLast() throws {
        var image = CountedImage()
        image.image.put(UInt64(3), at: 72)
        image.setCount(0, of: image.host(0, 3))
        let steps = try image.repaired().1.steps
        let place = steps.lastIndex { if case .write = $0 { true } else { false } }
        #expect(place == steps.count - 2 && steps.last == .sync)
        #expect(steps.dropLast(2).last == .sync)
        if case .write(let offset, _)? = place.map({ steps[$0] }) { #expect(offset == HostOffset(72)) }
    }

    @Test("the corrupt bit stays while damage does")
    func bitStays() throws {
        var image = CountedImage()
        image.image.put(UInt64(2), at: 72)
        image.setEntry(0, 20, 1 << 63 | 1 << 40)
        let storage = try image.repaired().1
        #expect(storage.bytes[79] == 2)
    }

    @Test("unknown autoclear bits are gone before anything else changes")
    func autoclear() throws {
        var image = CountedImage()
        image.image.put(UInt64(1 << 40), at: 88)
        _ = image.append()
        let steps = try image.repaired().1.steps
        #expect(steps.first == .write(HostOffset(88), big(UInt64(0))) && steps.dropFirst().first == .sync)
    }

    @Test("a full disk in a rebuild is an error and leaves the image as it was")
    func fullDisk() throws {
        var image = CountedImage()
        image.image.put(UInt32(0), at: 56)
        let storage = MemoryStorage(image.image.bytes, limit: image.image.bytes.count)
        #expect(throws: ImageError.self) { try ImageCheck.repair(storage, .all) }
        #expect(storage.bytes == image.image.bytes)
    }

    @Test("a repair that is cut off anywhere can be finished", arguments: repairable)
    func cutOff(damage: CheckTests.Damage) throws {
        var image = CountedImage()
        damage.make(&image)
        let steps = try image.repaired().1.steps
        var random = SeededRandom(7)
        for cut in 0...steps.count {
            for _ in 0..<4 {
                let bytes = Self.medium(image.image.bytes, steps.prefix(cut), &random)
                #expect(guestView(bytes) == guestView(image.image.bytes), "cut at \(cut)")
                let storage = MemoryStorage(bytes, limit: 16 << 20)
                let report = try ImageCheck.repair(storage, .all)
                #expect(report.verdict == .clean, "cut at \(cut): \(report.findings)")
                #expect(guestView(storage.bytes) == guestView(image.image.bytes), "cut at \(cut)")
            }
        }
    }

    @Test("no moment of a repair has a used cluster counted lower than before", arguments: repairable)
    func neverLower(damage: CheckTests.Damage) throws {
        var image = CountedImage()
        damage.make(&image)
        let used = try Self.lowest(image.image.bytes)
        let steps = try image.repaired().1.steps
        var random = SeededRandom(9)
        for cut in 0...steps.count {
            let bytes = Self.medium(image.image.bytes, steps.prefix(cut), &random)
            for (cluster, count) in try Self.lowest(bytes) {
                #expect(count >= used[cluster] ?? 0, "cluster \(cluster), cut at \(cut)")
            }
        }
    }

    /// What a medium may hold when the power fails after `steps`: everything before the last sync, and any of the rest.
    static func medium(
        _ start: [UInt8], _ steps: ArraySlice<MemoryStorage.Step>, _ random: inout SeededRandom
    ) -> [UInt8] {
        var image = ImageBytes()
        image.bytes = start
        let durable = steps.lastIndex(of: .sync) ?? steps.startIndex
        for (index, step) in zip(steps.indices, steps) {
            guard case .write(let offset, let bytes) = step, index < durable || random.chance(2) else { continue }
            image.put(bytes, at: Int(offset.bytes))
        }
        return image.bytes
    }

    /// The stored refcount of every data cluster and L2 table, but no more than its references: what makes it safe.
    static func lowest(_ bytes: [UInt8]) throws -> [UInt64: UInt64] {
        let checker = try ImageChecker(MemorySource(bytes), CheckOptions())
        try checker.run()
        var found: [UInt64: UInt64] = [:]
        for cluster in UInt64(CountedImage.tables[0])..<UInt64(CountedImage.firstData + 16) {
            found[cluster] = min(checker.counts[cluster], try checker.stored.count(of: cluster))
        }
        return found
    }
}
