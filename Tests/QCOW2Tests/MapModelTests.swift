// Random images of every cluster size, asked anywhere: the map must say of each byte what the naive model says, in
// extents as long as they can be.

import DiskTypes
import TestKit
import Testing

@testable import QCOW2

/// Asks a map and holds each answer against the model.
struct MapChecker: Sendable {
    let model: DiskModel
    let source: SparseSource
    let map: QCOW2Map

    init(_ model: DiskModel, _ source: SparseSource, cacheLimit: UInt64) throws {
        self.model = model
        self.source = source
        map = try QCOW2Map(
            try QCOW2Image(reading: source), source: source, dataLength: model.external ? model.dataEnd : nil,
            cacheLimit: cacheLimit)
    }

    /// The map's answer, its tables fetched; nil when it asks too often, as a livelock would.
    func ask(_ guest: UInt64, _ length: UInt64, patience: Int = 3) -> MapAnswer? {
        for _ in 0..<patience {
            let answer = map.lookup(GuestOffset(guest), length: length)
            guard case .needs(let table) = answer else { return answer }
            let bytes = (try? source.read(at: table.host, count: Int(table.length))) ?? []
            bytes.withUnsafeBytes { unsafe map.supply(table, $0) }
        }
        return nil
    }

    /// Whether the short way to plain clusters says what the model says, or leaves it to `lookup`.
    func plainFault(_ guest: UInt64, _ length: UInt64) -> String? {
        let count = min(length, model.cluster - guest % model.cluster)
        guard let host = map.plainOffset(GuestOffset(guest), length: count) else { return nil }
        let byte = model.byte(at: guest)
        return byte.kind == .data && byte.damage == nil && byte.host == host.bytes ? nil : "plain: \(host), not \(byte)"
    }

    /// What is wrong with the answer, or nil; and how many bytes it covered.
    func fault(_ guest: UInt64, _ length: UInt64, patience: Int = 3, warm: Bool = false) -> (String?, UInt64) {
        let answer = ask(guest, length, patience: patience)
        if let wrong = plainFault(guest, length) { return (wrong, 1) }
        switch answer {
        case nil, .needs: return ("asks for tables without end", 1)
        case .damaged(let damage):
            let l1Broken = model.brokenTables[guest >> model.coverageBits] != nil
            let bits = l1Broken ? model.coverageBits : model.clusterBits
            let rest = (1 << bits) - guest % (1 << bits)
            let right =
                damage.reason == model.byte(at: guest).damage && damage.guest.bytes == guest
                && damage.length == min(length, rest)
            return (right ? nil : "\(damage)", damage.length)
        case .extent(let extent): return (fault(in: extent, guest, length, warm: warm), extent.length)
        }
    }

    private func fault(in extent: Extent, _ guest: UInt64, _ length: UInt64, warm: Bool) -> String? {
        guard extent.guest.bytes == guest, extent.length > 0, extent.length <= length else { return "range: \(extent)" }
        for at in samples(guest, guest + extent.length) {
            let byte = model.byte(at: at)
            guard byte.damage == nil, byte.kind == extent.kind else { return "kind at \(at): \(extent), not \(byte)" }
            if extent.hasHostBytes, byte.host != extent.host.bytes + (at - guest) {
                return "host at \(at): \(extent), not \(byte)"
            }
            if extent.kind == .compressed {
                let start = guest & ~(model.cluster - 1)
                guard extent.host.bytes == byte.host, UInt64(extent.hostLength) == byte.hostLength,
                    extent.clusterStart.bytes == start, guest + extent.length <= start + model.cluster
                else { return "stream: \(extent), not \(byte)" }
            }
        }
        let end = guest + extent.length
        guard extent.length < length, model.continues(at: end) else { return nil }
        let atSliceEnd = end & ((1 << map.sliceCoverageBits) - 1) == 0
        return atSliceEnd && !warm ? nil : "not maximal: \(extent)"
    }

    /// Every unit's first and last byte; of long ranges, those in clusters that are something.
    private func samples(_ from: UInt64, _ end: UInt64) -> [UInt64] {
        var places = [from, end - 1]
        if (end - from) / model.unit <= 4096 {
            var at = (from / model.unit + 1) * model.unit
            while at < end {
                places += [at - 1, at]
                at += model.unit
            }
        } else {
            for key in model.clusters.keys {
                let at = key << model.clusterBits
                if at >= from, at < end { places.append(at) }
            }
        }
        return places
    }
}

@Suite struct MapModelTests {
    struct Shape: Sendable, CustomTestStringConvertible {
        let bits: UInt64
        let extended: Bool
        let external: Bool
        var testDescription: String {
            "2^\(bits)\(extended ? ", extended" : "")\(external ? ", external data" : "")"
        }
    }
    static let shapes: [Shape] = (9...21).flatMap { bits in
        [false, true].flatMap { extended in
            [false, true].compactMap { external in
                extended && bits < 14 ? nil : Shape(bits: bits, extended: extended, external: external)
            }
        }
    }

    @Test(arguments: shapes) func mapSaysWhatTheModelSays(_ shape: Shape) throws {
        for seed in 1...UInt64(testRounds) {
            var random = SeededRandom(seed &* 1000 + shape.bits)
            var model = DiskModel.random(
                clusterBits: shape.bits, extended: shape.extended, external: shape.external, &random)
            let source = model.write(random: &random)
            let tiny = try MapChecker(model, source, cacheLimit: 0)
            let big = try MapChecker(model, source, cacheLimit: 64 << 20)
            #expect(tiny.map.cache.slots == 2)
            for _ in 0..<200 {
                let (guest, length) = Self.question(model, &random)
                #expect(tiny.fault(guest, length).0 == nil, "seed \(seed), \(guest)+\(length)")
                #expect(big.fault(guest, length).0 == nil, "seed \(seed), \(guest)+\(length)")
            }
            for checker in [tiny, big] { Self.walk(checker, seed) }
        }
    }

    /// From end to end: answers join without gap or overlap. Once more in the big cache: now they are maximal.
    static func walk(_ checker: MapChecker, _ seed: UInt64) {
        for warm in [false, true] where !warm || checker.map.cache.slots > 2 {
            var at: UInt64 = 0
            var steps = 0
            while at < checker.model.size, steps < 200_000 {
                let (fault, covered) = checker.fault(at, checker.model.size - at, warm: warm)
                #expect(fault == nil, "seed \(seed), walk at \(at)")
                at += covered
                steps += 1
            }
            #expect(at == checker.model.size)
        }
    }

    /// A random range, most often near something.
    static func question(_ model: DiskModel, _ random: inout SeededRandom) -> (UInt64, UInt64) {
        var guest = random.number(below: model.size)
        if !random.chance(8), let key = model.clusters.keys.randomElement(using: &random) {
            guest = min(model.size - 1, key << model.clusterBits + random.number(below: model.cluster))
        }
        if random.chance(2) { guest &= ~511 }
        let longest = [512, model.cluster, 20 * model.cluster, model.size][Int(random.number(below: 4))]
        return (guest, 1 + random.number(below: min(longest, model.size - guest)))
    }

    @Test func plainClustersTakeTheShortWay() throws {
        var model = DiskModel(
            clusterBits: 16, size: 1 << 20, clusters: [3: .data(9 << 16), 4: .zeroAllocated(10 << 16)])
        model.dataEnd = 20 << 16
        var random = SeededRandom(1)
        let checker = try MapChecker(model, model.write(random: &random), cacheLimit: 0)
        func plain(_ guest: UInt64, _ length: UInt64) -> UInt64? {
            checker.map.plainOffset(GuestOffset(guest), length: length)?.bytes
        }
        #expect(plain(3 << 16, 512) == nil)  // the table is not here yet
        _ = checker.ask(0, 512)
        #expect(plain(3 << 16 + 512, 65024) == 9 << 16 + 512 && plain(3 << 16 + 512, 65025) == nil)
        #expect(plain(2 << 16, 512) == nil && plain(4 << 16, 512) == nil && plain(1 << 20, 512) == nil)
    }

    @Test func tableThatIsCutOffDamagesOnlyWhatItLost() throws {
        var random = SeededRandom(7)
        var model = DiskModel(clusterBits: 12, size: 512 << 12)
        (model.dataStart, model.dataEnd) = (4 << 12, 600 << 12)
        for i in 0..<512 as Range<UInt64> { model.clusters[i] = .zero }
        var source = model.write(random: &random)
        source.length = 3 << 12 + 100 * 8 + 7  // the only table is in cluster 3
        let checker = try MapChecker(model, source, cacheLimit: 0)
        guard case .extent(let whole) = checker.ask(0, model.size) else { throw ImageError.malformed("no extent") }
        #expect(whole.kind == .zero && whole.length == 100 << 12)
        guard case .damaged(let lost) = checker.ask(100 << 12, model.size - 100 << 12) else {
            throw ImageError.malformed("no damage")
        }
        #expect(lost.reason == .tableUnreadable && lost.length == 1 << 12 && lost.table.bytes == 3 << 12)
    }

    @Test func hugeImageIsAnsweredFromL1Alone() throws {
        var model = DiskModel(clusterBits: 21, size: 1 << 61)
        var random = SeededRandom(1)
        model.dataEnd = 64 << 21
        let source = model.write(random: &random)
        let map = try QCOW2Map(try QCOW2Image(reading: source), source: source, cacheLimit: 64 << 20)
        let answer = map.lookup(GuestOffset(0), length: 1 << 61)
        #expect(answer == .extent(Extent(guest: GuestOffset(0), length: 1 << 61, kind: .unallocated)))
        #expect(QCOW2Map.cacheNeed(try QCOW2Image(reading: source).header) == 1 << 43)
    }
}
