// Compressed streams share host clusters. QEMU 10.0.2 keeps the place for its next stream when the cluster around it
// is freed and given to another write, and then writes into that one's bytes. Here streams are given up one by one,
// in any order and by every means, while new clusters are taken: each stream that is left keeps every byte, each host
// cluster counts the streams that are left in it, and none is given out before the last is gone.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

@Suite(
    "Compressed clusters that are given up", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct CompressedNeighbourTests {
    static let shapes = [
        WriterShape(name: "64k", size: 4 << 20),
        WriterShape(name: "4k", options: ["cluster_size=4k"], size: 512 << 10),
        WriterShape(name: "512", options: ["cluster_size=512"], size: 64 << 10),
        WriterShape(name: "extended", options: ["extended_l2=on"], size: 4 << 20),
        WriterShape(name: "version 2", options: ["compat=0.10", "cluster_size=4k"], size: 512 << 10),
        WriterShape(name: "1 bit", options: ["cluster_size=4k", "refcount_bits=1"], size: 512 << 10),
    ]

    /// The first half of the disk is compressed, half of each cluster noise.
    private func make(_ shape: WriterShape, in folder: String, _ dice: inout SeededRandom) throws -> [UInt8] {
        _ = try shape.make(in: folder)
        let path = "\(folder)/image.qcow2"
        let image = try QCOW2Image(reading: MemorySource(Array(try Data(contentsOf: URL(filePath: path)))))
        let cluster = Int(image.header.clusterSize)
        var noise = dice.bytes(8192)
        for i in stride(from: 0, to: 8192, by: 2) { noise[i] = 0x33 }
        try noise.write(to: URL(filePath: "\(folder)/noise"))
        let commands = stride(from: 0, to: shape.size / 2, by: cluster).flatMap {
            ["-c", "write -c -s noise \($0) \(cluster)"]
        }
        try Command(["qemu-io", "-f", "qcow2"] + commands + [path], in: folder).succeed()
        return Array(try Data(contentsOf: URL(filePath: path)))
    }

    /// The streams of the disk, by guest cluster.
    private func streams(_ disk: OfflineDisk<MemoryStorage>) throws -> [Int: Range<Int>] {
        let cluster = Int(disk.image.header.clusterSize)
        var found: [Int: Range<Int>] = [:]
        for at in stride(from: 0, to: disk.size, by: cluster) {
            guard case .compressed(let range) = try disk.place(at) else { continue }
            found[at] = range
        }
        return found
    }

    @Test(arguments: shapes, [1, 2] as [UInt64]) func costNoOtherStreamAByte(shape: WriterShape, seed: UInt64) throws {
        try Scratch.withFolder { folder in
            var dice = SeededRandom(seed)
            let start = try make(shape, in: folder, &dice)
            let storage = MemoryStorage(start)
            let disk = try OfflineDisk(storage, places: 1)
            let cluster = Int(disk.image.header.clusterSize)
            var model = try WriterShape.guestBytes("\(folder)/image.qcow2", folder)
            var left = try streams(disk)
            try #require(left.count > 20, "QEMU has compressed \(left.count)")
            for (number, at) in left.keys.sorted().shuffled(using: &dice).enumerated() {
                let byte = UInt8(truncatingIfNeeded: number % 255 + 1)
                try giveUp(disk, at, cluster, byte, &model, &dice)
                left[at] = nil
                if dice.below(2) == 0 {
                    // Another write takes a cluster.
                    let other = (disk.size / 2 + dice.below(disk.size / 2)) / cluster * cluster
                    try disk.write(other, [UInt8](repeating: byte, count: cluster))
                    model.replaceSubrange(other..<other + cluster, with: repeatElement(byte, count: cluster))
                }
                for (guest, host) in left {
                    let isSame = Self.same(storage.bytes, start, host)
                    try #require(isSame, "step \(number): the stream of \(guest) has changed")
                }
                guard dice.below(3) == 0 else { continue }
                try disk.flush()
                try disk.flush()
                let report = try ImageCheck.check(storage)
                try #require(report.verdict == .clean, "step \(number): \(report.findings.map(\.line))")
            }
            try disk.close()
            try WriterModelTests.judge(storage, model, folder, "seed \(seed)")
        }
    }

    private static func same(_ a: [UInt8], _ b: [UInt8], _ range: Range<Int>) -> Bool {
        a.withUnsafeBytes { a in
            b.withUnsafeBytes { b in
                guard let x = a.baseAddress, let y = b.baseAddress else { return false }
                return memcmp(
                    x + range.lowerBound, y + range.lowerBound, min(range.upperBound, b.count) - range.lowerBound) == 0
            }
        }
    }

    private func giveUp(
        _ disk: OfflineDisk<MemoryStorage>, _ at: Int, _ cluster: Int, _ byte: UInt8, _ model: inout [UInt8],
        _ dice: inout SeededRandom
    ) throws {
        let kind = dice.below(4)
        switch kind {
        case 0: try disk.write(at, [UInt8](repeating: byte, count: cluster))
        case 1: try disk.zero(at, cluster, .keep)
        case 2: try disk.zero(at, cluster, .unmap)
        default: try disk.zero(at, cluster, .discard)
        }
        model.replaceSubrange(at..<at + cluster, with: repeatElement(kind == 0 ? byte : 0, count: cluster))
    }

    /// QEMU's four commands, its own compressed writes and our changes in turns: what goes wrong in one session of QEMU
    /// alone must not when we free the first stream.
    @Test(arguments: ["1.1", "0.10"]) func aFreedStreamsClusterIsNotWrittenIntoAgain(version: String) throws {
        try Scratch.withFolder { folder in
            let shape = WriterShape(
                name: "four", options: ["compat=\(version)"], size: 16 << 20, before: ["write -c -P 1 0 64k"])
            let storage = MemoryStorage(try shape.make(in: folder).image)
            let disk = try OfflineDisk(storage, places: 1)
            try disk.zero(0, 64 << 10, .discard)
            try disk.flush()
            try disk.write(64 << 10, [UInt8](repeating: 2, count: 64 << 10))
            try disk.close()
            let path = "\(folder)/image.qcow2"
            try Data(storage.bytes).write(to: URL(filePath: path))
            try Command(["qemu-io", "-f", "qcow2", "-c", "write -c -P 3 128k 64k", path]).succeed()
            let again = try OfflineDisk(MemoryStorage(Array(try Data(contentsOf: URL(filePath: path)))))
            try again.write(192 << 10, [UInt8](repeating: 4, count: 64 << 10))
            try again.close()
            var model = [UInt8](repeating: 0, count: 16 << 20)
            for i in 1...3 {
                model.replaceSubrange(i << 16..<(i + 1) << 16, with: repeatElement(UInt8(i + 1), count: 1 << 16))
            }
            try WriterModelTests.judge(again.storage, model, folder, "version \(version)")
        }
    }
}

extension OfflineDisk {
    enum Place {
        case compressed(Range<Int>)
        case other
    }

    /// Where the cluster at `at` is.
    func place(_ at: Int) throws -> Place {
        while true {
            switch map.lookup(GuestOffset(UInt64(at)), length: map.clusterSize) {
            case .needs(let table):
                let bytes = try storage.read(at: table.host, count: Int(table.length))
                bytes.withUnsafeBytes { map.supply(table, $0) }
            case .extent(let extent) where extent.kind == .compressed:
                return .compressed(Int(extent.host.bytes)..<Int(extent.host.bytes) + Int(extent.hostLength))
            default: return .other
            }
        }
    }
}
