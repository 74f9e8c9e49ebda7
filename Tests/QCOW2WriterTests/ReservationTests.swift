// Clusters that workers keep for later must lie together, must not be lost, and must not be what a write fails for.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

@Suite("Clusters in batches", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct ReservationTests {
    private static func image(_ size: Int = 8 << 20, cluster: Int = 4096) throws -> [UInt8] {
        try Scratch.withFolder { folder in
            try Command(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=\(cluster)", "a.qcow2", "\(size)"],
                in: folder
            ).succeed()
            return Array(try Data(contentsOf: URL(filePath: "\(folder)/a.qcow2")))
        }
    }

    /// Host clusters of so many guest clusters from `first` on.
    private static func hosts(_ disk: OfflineDisk<MemoryStorage>, _ first: Int, _ count: Int) throws -> [UInt64] {
        try (0..<count).map { i in
            guard
                case .extent(let extent) = disk.map.lookup(GuestOffset(UInt64((first + i) * 4096)), length: 4096)
            else { throw DiskError("not there") }
            return extent.host.bytes / 4096
        }
    }

    @Test("two workers' rows lie each in one piece, though they write in turns")
    func rows() throws {
        let disk = try OfflineDisk(MemoryStorage(try Self.image()), places: 2)
        for i in 0..<64 {
            for row in 0..<2 { try disk.write((row * 1024 + i) * 4096, [UInt8](repeating: 7, count: 4096)) }
        }
        for row in 0..<2 {
            let hosts = try Self.hosts(disk, row * 1024, 64)
            #expect(zip(hosts, hosts.dropFirst()).count { $0 + 1 != $1 } <= 1, "\(hosts)")
        }
    }

    @Test("what is left is free again when the image is closed")
    func left() throws {
        let storage = MemoryStorage(try Self.image())
        let disk = try OfflineDisk(storage, places: 3)
        for i in 0..<5 { try disk.write(i << 20, [1, 2, 3]) }
        try disk.close()
        #expect(try ImageCheck.check(storage).verdict == .clean)
        // Three cluster of tables at the start, two L2 tables, five clusters, and no more than what is kept beside them.
        #expect(storage.length <= 4096 * (3 + 2 + 5 + 3 * 64))
    }

    @Test("a storage that cannot grow is full only when no worker keeps clusters")
    func full() throws {
        let memory = MemoryStorage(try Self.image())
        try memory.truncate(to: 4096 * 200)
        let disk = try OfflineDisk(FixedStorage(memory), places: 3)
        var written = 0
        do {
            while written < 1000 {
                try disk.write(written * 4096, [UInt8](repeating: 9, count: 4096))
                written += 1
            }
        } catch {}
        // Header, refcount table and block, L1, and the L2 tables: all else is data.
        #expect(written >= 200 - 4 - (written + 511) / 512, "\(written) clusters")
        try disk.close()
        #expect(try ImageCheck.check(memory).verdict == .clean)
    }
}

/// A storage that is as long as it is.
private struct FixedStorage: ResizableStorage {
    let memory: MemoryStorage
    init(_ memory: MemoryStorage) { self.memory = memory }
    var length: UInt64 { memory.length }
    var canGrow: Bool { false }
    func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        try memory.read(at: offset, count: count)
    }
    func write(at offset: HostOffset, _ bytes: [UInt8]) throws(ImageError) { try memory.write(at: offset, bytes) }
    func sync() throws(ImageError) {}
    func truncate(to newLength: UInt64) throws(ImageError) {
        throw ImageError(.system, "a device does not grow")
    }
    func discard(at offset: HostOffset, length: UInt64) {}
}
