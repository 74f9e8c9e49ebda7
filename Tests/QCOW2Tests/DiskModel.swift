// A naive picture of a disk, cluster by cluster, that can say what any byte is and can be written as an image. The
// map under test shares no code with it.

import DiskTypes

@testable import QCOW2
import TestKit

/// What one guest cluster is, and so which entry it gets.
enum ModelCluster: Equatable, Sendable {
    case data(UInt64)
    case zero
    case zeroAllocated(UInt64)
    case compressed(host: UInt64, sectors: UInt64)
    /// host 0 = no cluster.
    case subclusters(host: UInt64, allocated: UInt32, zero: UInt32)
    case damaged(entry: UInt64, bitmap: UInt64, MapDamage.Reason)
}

/// What the byte at a guest offset is.
struct ModelByte: Equatable {
    var kind: ExtentKind = .unallocated
    /// Where the byte is, for kinds that have host bytes; where the stream is, for compressed ones.
    var host: UInt64 = 0
    var hostLength: UInt64 = 0
    var damage: MapDamage.Reason?
}

struct DiskModel: Sendable {
    var clusterBits: UInt64
    var extended = false
    var external = false
    var size: UInt64
    /// Guest clusters that are not plainly unallocated.
    var clusters: [UInt64: ModelCluster] = [:]
    /// L1 entries that are broken.
    var brokenTables: [UInt64: (entry: UInt64, MapDamage.Reason)] = [:]
    /// Host bytes that data may use: [first, end).
    var dataStart: UInt64 = 0
    var dataEnd: UInt64 = 0

    var cluster: UInt64 { 1 << clusterBits }
    var coverageBits: UInt64 { 2 * clusterBits - (extended ? 4 : 3) }
    var l1Count: UInt64 { (size + (1 << coverageBits) - 1) >> coverageBits }
    /// Bytes in which nothing changes.
    var unit: UInt64 { extended ? cluster / 32 : cluster }

    func byte(at guest: UInt64) -> ModelByte {
        if let broken = brokenTables[guest >> coverageBits] { return ModelByte(damage: broken.1) }
        let inCluster = guest % cluster
        switch clusters[guest >> clusterBits] {
        case nil: return ModelByte()
        case .data(let host): return ModelByte(kind: .data, host: host + inCluster)
        case .zero: return ModelByte(kind: .zero)
        case .zeroAllocated(let host): return ModelByte(kind: .zeroAllocated, host: host + inCluster)
        case .compressed(let host, let sectors):
            return ModelByte(kind: .compressed, host: host, hostLength: (sectors + 1) * 512 - host % 512)
        case .damaged(_, _, let reason): return ModelByte(damage: reason)
        case .subclusters(let host, let allocated, let zero):
            let bit: UInt32 = 1 << UInt32(inCluster / unit)
            let place = host == 0 && !(external && guest < cluster) ? 0 : host + inCluster
            let mapped = host != 0 || (external && guest < cluster && allocated != 0)
            if allocated & bit != 0 { return ModelByte(kind: .data, host: place) }
            if zero & bit != 0 { return ModelByte(kind: mapped ? .zeroAllocated : .zero, host: mapped ? place : 0) }
            return ModelByte(kind: mapped ? .unallocatedReserved : .unallocated, host: mapped ? place : 0)
        }
    }

    /// Whether the bytes before and at `guest` could be one extent.
    func continues(at guest: UInt64) -> Bool {
        let (before, here) = (byte(at: guest - 1), byte(at: guest))
        guard before.damage == nil, here.damage == nil, before.kind == here.kind, here.kind != .compressed else {
            return false
        }
        let hasHost = here.kind == .data || here.kind == .zeroAllocated || here.kind == .unallocatedReserved
        return !hasHost || here.host == before.host + 1
    }

    /// The two words of a cluster's entry.
    func entry(_ index: UInt64) -> (UInt64, UInt64) {
        let copied: UInt64 = 1 << 63
        switch clusters[index] {
        case nil: return (0, 0)
        case .data(let host): return (copied | host, 0)
        case .zero: return (1, 0)
        case .zeroAllocated(let host): return (copied | host | 1, 0)
        case .compressed(let host, let sectors):
            return (1 << 62 | sectors << (62 - (clusterBits - 8)) | host, 0)
        case .subclusters(let host, let allocated, let zero):
            let mapped = host != 0 || (external && index == 0 && allocated != 0)
            return (mapped ? copied | host : 0, UInt64(zero) << 32 | UInt64(allocated))
        case .damaged(let entry, let bitmap, _): return (entry, bitmap)
        }
    }

    /// The image: header, refcount table, L1 table, L2 tables in random order, then room for data.
    mutating func write(random: inout SeededRandom) -> SparseSource {
        let l1Clusters = (l1Count * 8 + cluster - 1) >> clusterBits
        let firstTable = 2 + l1Clusters
        let tables = Set(clusters.keys.map { $0 >> (coverageBits - clusterBits) })
            .subtracting(brokenTables.keys).sorted().shuffled(using: &random)
        var source = SparseSource(length: external ? (firstTable + UInt64(tables.count)) << clusterBits : dataEnd)
        var l1 = [UInt64](repeating: 0, count: Int(l1Count))
        for (index, broken) in brokenTables { l1[Int(index)] = broken.entry }
        for (place, index) in tables.enumerated() {
            let host = (firstTable + UInt64(place)) << clusterBits
            l1[Int(index)] = 1 << 63 | host
            source.pieces[host] = table(index)
        }
        source.pieces[2 << clusterBits] = l1.flatMap { big($0) }
        source.pieces[0] = header()
        return source
    }

    private func header() -> [UInt8] {
        var image = ImageBytes(clusterBits: UInt32(clusterBits), size: 512)
        image.put(size, at: 24)
        image.put(UInt32(l1Count), at: 36)
        image.put(UInt64((external ? 4 : 0) | (extended ? 16 : 0)), at: 72)
        return Array(image.bytes.prefix(512))
    }

    private func table(_ index: UInt64) -> [UInt8] {
        let entries = 1 << (coverageBits - clusterBits)
        var bytes = [UInt8](repeating: 0, count: Int(cluster))
        let width = extended ? 16 : 8
        let first = index << (coverageBits - clusterBits)
        for key in clusters.keys where key >= first && key < first + UInt64(entries) {
            let (word, bitmap) = entry(key)
            let at = Int(key - first) * width
            bytes.replaceSubrange(at..<(at + width), with: extended ? big(word) + big(bitmap) : big(word))
        }
        return bytes
    }
}
