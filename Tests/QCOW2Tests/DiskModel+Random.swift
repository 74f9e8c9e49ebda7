// Random disks, dense where mistakes hide: at the ends of slices, of tables and of the disk.

import DiskTypes

@testable import QCOW2
import TestKit

extension DiskModel {
    static func random(clusterBits: UInt64, extended: Bool, external: Bool, _ random: inout SeededRandom) -> DiskModel {
        var model = DiskModel(clusterBits: clusterBits, extended: extended, external: external, size: 0)
        let tableBytes: UInt64 = 1 << model.coverageBits
        model.size = (tableBytes * random.number(below: 4) + random.number(below: tableBytes) + 512) & ~511
        let tables = model.l1Count
        let firstData = 2 + (tables * 8 + model.cluster - 1) >> clusterBits + tables
        model.dataStart = external ? 0 : firstData << clusterBits
        model.dataEnd = external ? model.size : (firstData + 4000) << clusterBits
        model.fillZones(&random)
        if tables > 2, random.chance(2) {
            model.brokenTables[random.number(below: tables)] =
                random.chance(2) ? (1 << 63 | 1, .reservedBits) : (1 << 55, .beyondEndOfFile)
        }
        return model
    }

    private mutating func fillZones(_ random: inout SeededRandom) {
        let last = (size - 1) >> clusterBits
        let perTable: UInt64 = 1 << (coverageBits - clusterBits)
        let perSlice = min(perTable, 4096 / (extended ? 16 : 8))
        var starts = [0, last &- min(last, 20)]
        for table in 0..<l1Count { starts.append(table * perTable &- min(table, 1) * 30) }
        for _ in 0..<8 { starts.append((random.number(below: last / perSlice + 1) + 1) * perSlice - min(perSlice, 30)) }
        for start in starts {
            var index = start
            let end = start + 60
            while index < end, index <= last { index += fillRun(at: index, upTo: last, &random) }
        }
    }

    /// A run of clusters of one sort, mostly contiguous on the host; returns how many.
    private mutating func fillRun(at start: UInt64, upTo last: UInt64, _ random: inout SeededRandom) -> UInt64 {
        let count = min(1 + random.number(below: random.chance(2) ? 3 : 40), last - start + 1)
        var host = dataStart + random.number(below: 3000) << clusterBits
        let sort = random.number(below: external ? 6 : 8)
        for index in start..<(start + count) {
            let place = external ? index << clusterBits : host
            if let made = sorted(sort, place, &random) {
                // With an external data file, guest cluster 0 is at host 0: only the plain kinds can say so.
                clusters[index] = external && index == 0 && made == .zeroAllocated(0) ? .zero : made
            } else {
                clusters[index] = nil
            }
            host += random.chance(12) ? 2 * cluster : cluster
        }
        return count
    }

    private func sorted(_ sort: UInt64, _ host: UInt64, _ random: inout SeededRandom) -> ModelCluster? {
        switch sort {
        case 0: return nil
        case 1, 2: return extended ? subclusters(host, &random) : .data(host)
        case 3: return extended ? subclusters(0, &random) : .zero
        case 4: return extended ? .subclusters(host: host, allocated: .max, zero: 0) : .zeroAllocated(host)
        case 5: return damage(host, &random)
        default:
            let sectors = random.number(below: 1 << (clusterBits - 8))
            return .compressed(host: host + random.number(below: cluster), sectors: sectors)
        }
    }

    private func subclusters(_ host: UInt64, _ random: inout SeededRandom) -> ModelCluster {
        let words: [UInt32] = [
            0, .max, 0xffff, 0xffff_0000, 1, 1 << 31, UInt32(truncatingIfNeeded: random.next()),
            UInt32(truncatingIfNeeded: random.next()),
        ]
        let allocated = host == 0 ? 0 : words[Int(random.number(below: 8))]
        return .subclusters(host: host, allocated: allocated, zero: words[Int(random.number(below: 8))] & ~allocated)
    }

    private func damage(_ host: UInt64, _ random: inout SeededRandom) -> ModelCluster {
        let data: UInt64 = extended ? 1 : 0
        switch random.number(below: external ? 2 : 4) {
        case 0: return .damaged(entry: host | 4, bitmap: data, .reservedBits)
        case 1 where extended: return .damaged(entry: 0, bitmap: 3 << 31 | 1, .badSubclusterBitmap)
        case 1: return .damaged(entry: host | 1 << 57, bitmap: 0, .reservedBits)
        case 2: return .damaged(entry: dataEnd, bitmap: data, .beyondEndOfFile)
        default: return .damaged(entry: cluster, bitmap: data, .overlapsMetadata)
        }
    }
}
