// Each kind of damage is found, is called what it is, and nothing else is found; and what a stranger wrote makes a
// check neither trap nor run for ever nor take the machine's memory.

import DiskTypes
import TestKit
import Testing

@testable import QCOW2

@Suite("Check of an image in memory")
struct CheckTests {
    @Test("an image with right refcounts is clean, whatever their width", arguments: UInt32(0)...6)
    func clean(order: UInt32) throws {
        let report = try CountedImage(order: order).check()
        #expect(report.verdict == .clean, "\(report.findings)")
        #expect(report.allocatedClusters == 16 && report.totalClusters == 128)
    }

    @Test("a cluster that nothing refers to is a leak")
    func leak() throws {
        var image = CountedImage()
        _ = image.append()
        let report = try image.check()
        #expect(report.verdict == .leaks && report.leaks == 1, "\(report.findings)")
    }

    /// One kind of damage: how to do it, and a word of what must be said of it.
    struct Damage: Sendable, CustomStringConvertible {
        let description: String
        let word: String
        let make: @Sendable (inout CountedImage) -> Void

        init(_ description: String, _ word: String, _ make: @escaping @Sendable (inout CountedImage) -> Void) {
            self.description = description
            self.word = word
            self.make = make
        }
    }

    static let damages: [Damage] = [
        Damage("a refcount too low", "refcount=0 reference=1") { $0.setCount(0, of: $0.host(0, 3)) },
        Damage("COPIED clear at refcount 1", "COPIED") { $0.setEntry(0, 3, $0.entry(0, 3) & ~(1 << 63)) },
        Damage("COPIED set at refcount 2", "COPIED") { image in
            image.setEntry(1, 3, image.entry(0, 3))
            image.setCount(2, of: image.host(0, 3))
            image.setCount(0, of: image.host(1, 3))
        },
        Damage("COPIED of the L1 table", "COPIED") {
            $0.image.put(UInt64(CountedImage.tables[0] * 512), at: CountedImage.l1 * 512)
        },
        Damage("reserved bits of an L2 entry", "reserved") { $0.setEntry(0, 3, $0.entry(0, 3) | 1 << 60) },
        Damage("reserved bits of an L1 entry", "reserved") {
            $0.image.put(1 << 63 | UInt64(CountedImage.tables[0] * 512) | 2, at: CountedImage.l1 * 512)
        },
        Damage("data past the end", "past the end") { $0.setEntry(0, 20, 1 << 63 | 1 << 40) },
        Damage("an L2 table past the end", "past the end") { $0.image.put(UInt64(1 << 40), at: CountedImage.l1 * 512) },
        Damage("data over the L1 table", "overlaps") {
            $0.setEntry(0, 20, UInt64(CountedImage.l1 * 512))
            $0.setCount(2, of: CountedImage.l1)
        },
        Damage("data over an L2 table", "overlaps") {
            $0.setEntry(0, 20, UInt64(CountedImage.tables[1] * 512))
            $0.setCount(2, of: CountedImage.tables[1])
        },
        Damage("data over a refcount block", "overlaps") {
            $0.setEntry(0, 20, 1024)
            $0.setCount(2, of: 2)
        },
        Damage("an L1 entry over the header", "no table") { $0.image.put(UInt64(1) << 63, at: CountedImage.l1 * 512) },
        Damage("COPIED on a compressed cluster", "compressed") {
            $0.setEntry(0, 3, 3 << 62 | UInt64($0.host(0, 3) * 512))
        },
        Damage("no refcount table", "refcount table") { $0.image.put(UInt32(0), at: 56) },
        Damage("the refcount table past the end", "refcount table") { $0.image.put(UInt64(1 << 50), at: 48) },
        Damage("the refcount table unaligned", "refcount table") { $0.image.put(UInt64(513), at: 48) },
        Damage("a refcount block past the end", "past the end") { $0.image.put(UInt64(1 << 50), at: 512) },
        Damage("a refcount block named twice", "overlaps") { $0.image.put(UInt64(1024), at: 512 + 16) },
        Damage("snapshots past the end", "snapshot table") {
            $0.image.put(UInt32(1), at: 60)
            $0.image.put(UInt64(1 << 40), at: 64)
        },
    ]

    @Test("damage is found and named", arguments: damages)
    func found(damage: Damage) throws {
        var image = CountedImage()
        damage.make(&image)
        let report = try image.check()
        #expect(report.verdict == .corrupt)
        #expect(report.findings.contains { $0.line.contains(damage.word) }, "\(report.findings.map(\.line))")
    }

    @Test("a zero cluster in version 2 is damage")
    func zeroInVersion2() throws {
        var image = CountedImage(version: 2)
        image.setEntry(0, 20, 1)
        #expect(try image.check().corruptions == 1)
    }

    @Test("two entries may share a cluster that is counted twice and not COPIED")
    func shared() throws {
        var image = CountedImage()
        for table in 0...1 { image.setEntry(table, 3, image.entry(0, 3) & ~(1 << 63)) }
        image.setCount(2, of: image.host(0, 3))
        image.setCount(0, of: image.host(1, 3))
        #expect(try image.check().verdict == .clean)
    }

    @Test("a compressed stream counts once in each cluster that it touches")
    func compressedSpans() throws {
        var image = CountedImage()
        // Offset 100 into one cluster, one more sector: into the next. Entries have 61 bits of offset here.
        image.setEntry(0, 20, 1 << 62 | 1 << 61 | UInt64(image.host(1, 0) * 512 + 100))
        for entry in 0...1 {
            image.setCount(2, of: image.host(1, entry))
            image.setEntry(1, entry, image.entry(1, entry) & ~(1 << 63))
        }
        let report = try image.check()
        #expect(report.verdict == .clean, "\(report.findings)")
        #expect(report.compressedClusters == 1)
    }

    @Test("findings are counted beyond those that are kept")
    func findingLimit() throws {
        var image = CountedImage()
        for entry in 0..<8 { image.setCount(0, of: image.host(0, entry)) }
        var options = CheckOptions()
        options.findingLimit = 3
        let report = try ImageCheck.check(image.image.source, options)
        // Each lacks its count, and its COPIED flag contradicts that.
        #expect(report.corruptions == 16 && report.findings.count == 3 && report.findingsLeftOut == 13)
    }

    @Test("a check writes nothing, and neither does the repair of a clean image")
    func readsOnly() throws {
        let storage = CountedImage().storage
        _ = try ImageCheck.check(storage)
        _ = try ImageCheck.repair(storage, .all)
        #expect(storage.steps.isEmpty)
    }

    @Test("an interrupted check says so")
    func interrupted() throws {
        var options = CheckOptions()
        options.isInterrupted = { true }
        #expect(throws: ImageError.self) { try ImageCheck.check(CountedImage().image.source, options) }
    }
}

@Suite("Check of hostile images")
struct HostileCheckTests {
    @Test(
        "an L1 table that names one L2 table a quarter million times takes no longer than its size",
        .timeLimit(.minutes(20)))
    func oneTableForAll() throws {
        var image = CountedImage()
        let entries = 1 << 18
        image.image.put(UInt32(entries), at: 36)
        let l1 = image.image.bytes.count
        image.image.put(UInt64(l1), at: 40)
        let word = big(UInt64(CountedImage.tables[0] * 512))
        image.image.bytes += Array(repeatElement(word, count: entries).joined())
        let report = try image.check()
        #expect(report.verdict == .corrupt)
        #expect(report.allocatedClusters == UInt64(entries * 8))
    }

    @Test("tables that name themselves and each other end")
    func loops() throws {
        var image = CountedImage()
        for entry in 0..<64 {
            for table in 0...1 { image.setEntry(table, entry, UInt64(CountedImage.tables[entry % 2] * 512)) }
        }
        let report = try image.check()
        #expect(report.verdict == .corrupt)
    }

    @Test("a file of 2 EiB with one cluster at its end takes little memory")
    func exabytes() throws {
        let image = CountedImage()
        var source = SparseSource(image.image.bytes, length: 1 << 61)
        var table = Array(image.image.bytes[CountedImage.tables[0] * 512..<CountedImage.tables[0] * 512 + 512])
        table.replaceSubrange(20 * 8..<21 * 8, with: big(UInt64(1) << 55))
        var bytes = image.image.bytes
        bytes.replaceSubrange(CountedImage.tables[0] * 512..<CountedImage.tables[0] * 512 + 512, with: table)
        source.pieces[0] = bytes
        var options = CheckOptions()
        options.memoryLimit = 1 << 20
        let report = try ImageCheck.check(source, options)
        #expect(report.verdict == .corrupt && report.corruptions == 1, "\(report.findings)")
        #expect(report.imageEnd == HostOffset(1 << 55 + 512))
    }

    @Test("references to too many places are an error, not memory")
    func memoryLimit() throws {
        var image = CountedImage()
        for entry in 8..<64 { image.setEntry(0, entry, UInt64(entry) << 40) }
        var options = CheckOptions()
        options.memoryLimit = 16 << 12
        let source = SparseSource(image.image.bytes, length: 1 << 50)
        #expect(throws: ImageError.self) { try ImageCheck.check(source, options) }
    }

    @Test("random damage makes neither a check nor a repair trap, and a repair never makes it worse", arguments: 0..<40)
    func random(seed: Int) throws {
        var random = SeededRandom(UInt64(seed))
        for _ in 0..<(25 * testRounds) {
            var image = CountedImage(order: UInt32(random.number(below: 7)))
            let metadata = UInt64(CountedImage.firstData * 512)
            for _ in 0...random.number(below: 6) {
                let at = Int(random.chance(3) ? random.number(below: 112) : random.number(below: metadata))
                if random.chance(2) {
                    image.image.bytes[at] ^= 1 << UInt8(random.number(below: 8))
                } else {
                    image.image.put(UInt8(truncatingIfNeeded: random.next()), at: at)
                }
            }
            guard let before = try? image.check() else { continue }
            let storage = image.storage
            guard let after = try? ImageCheck.repair(storage, .all) else { continue }
            #expect(after.corruptions <= before.corruptions, "seed \(seed)")
            let again = try ImageCheck.check(storage)
            #expect(again.corruptions == after.corruptions && again.leaks == after.leaks, "seed \(seed)")
        }
    }
}

@Suite("Counting references")
struct ClusterCountsTests {
    @Test("counts beyond a cell's six bits stay exact", arguments: [UInt64(1), 62, 63, 64, 1000, 1 << 40])
    func large(count: UInt64) throws {
        var counts = ClusterCounts(memoryLimit: 1 << 20)
        for _ in 0..<3 { _ = try counts.add(7, as: .data, weight: count) }
        #expect(counts[7] == 3 * count && counts[6] == 0 && counts.highest == 7)
    }

    @Test("every counter of a block is its own, whatever its width", arguments: UInt32(0)...6)
    func widths(order: UInt32) {
        var block = [UInt8](repeating: 0, count: 512)
        let count = 4096 >> Int(order)
        let largest = RefcountBlock.largest(order: order)
        for index in 0..<count { RefcountBlock.store(UInt64(index) & largest, into: &block, index, order: order) }
        for index in 0..<count { #expect(RefcountBlock.load(block, index, order: order) == UInt64(index) & largest) }
    }
}
