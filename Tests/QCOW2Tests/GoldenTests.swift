// Images that QEMU made, and some broken on purpose, with what must come out of them, word for word; and what
// qemu-img itself says of them. QBLK_WRITE_GOLDEN=1 writes the expected files; read what changed.

import DiskTypes
import Foundation
import Testing

@testable import QCOW2

@Suite struct GoldenTests {
    static let folder = LayoutTable.folder.appendingPathComponent("golden")
    static let names: [String] =
        ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? [])
        .filter { $0.hasSuffix(".hex") }.map { String($0.dropLast(4)) }.sorted()

    /// What `xxd -a` printed.
    static func image(_ name: String) throws -> MemorySource {
        var image = ImageBytes()
        image.bytes = []
        let text = try String(contentsOf: folder.appendingPathComponent(name + ".hex"), encoding: .utf8)
        for line in text.split(separator: "\n") where line != "*" {
            let offset = try #require(Int(line.prefix(8), radix: 16))
            let digits = line.dropFirst(10).prefix(39).filter { $0 != " " }
            let bytes = stride(from: 0, to: digits.count, by: 2).compactMap { i in
                UInt8(digits.dropFirst(i).prefix(2), radix: 16)
            }
            image.put(bytes, at: offset)
        }
        return image.source
    }

    /// Holds `text` against the expected file, or writes it.
    static func expect(_ text: String, _ file: String) throws {
        let place = folder.appendingPathComponent(file)
        if ProcessInfo.processInfo.environment["QBLK_WRITE_GOLDEN"] != nil {
            try text.write(to: place, atomically: true, encoding: .utf8)
        }
        #expect(text == (try? String(contentsOf: place, encoding: .utf8)), "\(file)")
    }

    static func map(_ source: MemorySource) throws -> QCOW2Map {
        let image = try QCOW2Image(reading: source)
        return try QCOW2Map(
            image, source: source, dataLength: image.header.hasExternalData ? image.header.diskSize : nil,
            cacheLimit: 1 << 20)
    }

    /// Every answer from 0 to the end of the disk, joined where answers continue each other.
    static func answers(_ source: MemorySource) throws -> [MapAnswer] {
        let map = try map(source)
        var list: [MapAnswer] = []
        var at: UInt64 = 0
        while at < map.size {
            let answer = map.lookup(GuestOffset(at), length: map.size - at)
            switch answer {
            case .needs(let table):
                try source.read(at: table.host, count: Int(table.length)).withUnsafeBytes {
                    unsafe map.supply(table, $0)
                }
                continue
            case .damaged(let damage): at += damage.length
            case .extent(let extent):
                at += extent.length
                if case .extent(var last)? = list.last, last.continues(into: extent) {
                    last.length += extent.length
                    list[list.count - 1] = .extent(last)
                    continue
                }
            }
            list.append(answer)
        }
        return list
    }

    @Test func thereAreImages() { #expect(Self.names.count >= 20) }

    @Test(arguments: names.filter { !$0.hasPrefix("refused") }) func extentsAndInfo(_ name: String) throws {
        let source = try Self.image(name)
        let lines = try Self.answers(source).map { answer in
            switch answer {
            case .needs: "unanswered"
            case .damaged(let damage): "\(damage.guest.bytes) \(damage.length) damaged: \(damage.reason.words)"
            case .extent(let extent):
                "\(extent.guest.bytes) \(extent.length) \(extent.kind)"
                    + (extent.hasHostBytes || extent.kind == .compressed ? " \(extent.host.bytes)" : "")
                    + (extent.kind == .compressed ? " \(extent.hostLength)" : "")
            }
        }
        try Self.expect(lines.map { $0 + "\n" }.joined(), name + ".extents")
        try Self.expect(Self.info(QCOW2Image(reading: source)), name + ".info")
    }

    @Test(arguments: names.filter { $0.hasPrefix("refused") }) func refusal(_ name: String) throws {
        let source = try Self.image(name)
        let error = #expect(throws: ImageError.self) { try QCOW2Image(reading: source) }
        try Self.expect((error?.description ?? "") + "\n", name + ".refused")
    }

    static func info(_ image: QCOW2Image) -> String {
        let header = image.header
        var lines = [
            "version \(header.version)", "size \(header.size)", "clusterSize \(header.clusterSize)",
            "refcountBits \(header.refcountBits)", "l1Entries \(header.l1Entries)",
            "compression \(header.compression.name)", "extendedL2 \(header.hasSubclusters)",
        ]
        if let name = image.extensions.backingName { lines.append("backing \(name)") }
        if let format = image.extensions.backingFormat { lines.append("backingFormat \(format)") }
        if let name = image.extensions.externalDataFile { lines.append("externalData \(name)") }
        switch image.snapshots {
        case .success(let list):
            lines += list.map { "snapshot \($0.id) \($0.diskSize ?? header.size) \($0.name)" }
        case .failure(let error): lines.append("snapshots unreadable: \(error)")
        }
        switch image.bitmaps {
        case .success(let list):
            lines += list.map {
                "bitmap \($0.granularity)\($0.isAuto ? " auto" : "")\($0.isInUse ? " in-use" : "") \($0.name)"
            }
        case .failure(let error): lines.append("bitmaps unreadable: \(error)")
        }
        return lines.map { $0 + "\n" }.joined()
    }

    /// One row of `qemu-img map --output=json`.
    struct Row: Decodable, Equatable {
        var start: UInt64
        var length: UInt64
        var zero: Bool
        var data: Bool
        var compressed: Bool
        var offset: UInt64?
    }

    @Test(arguments: names.filter { FileManager.default.fileExists(atPath: folder.path + "/\($0).map.json") })
    func qemuImgMapAgrees(_ name: String) throws {
        let json = try Data(contentsOf: Self.folder.appendingPathComponent(name + ".map.json"))
        let theirs = try JSONDecoder().decode([Row].self, from: json)
        var ours: [Row] = []
        for case .extent(let extent) in try Self.answers(Self.image(name)) {
            let reads = extent.kind == .data || extent.kind == .compressed
            ours.append(
                Row(
                    start: extent.guest.bytes, length: extent.length, zero: !reads, data: reads,
                    compressed: extent.kind == .compressed, offset: extent.hasHostBytes ? extent.host.bytes : nil))
        }
        #expect(Self.joined(ours) == Self.joined(theirs))
    }

    /// qemu-img joins neighbouring compressed clusters and tells kinds of zeros apart; neither matters here.
    static func joined(_ rows: [Row]) -> [Row] {
        rows.reduce(into: []) { list, row in
            guard let last = list.last, last.zero == row.zero, last.compressed == row.compressed,
                last.offset.map({ $0 + last.length }) == row.offset
            else { return list.append(row) }
            list[list.count - 1].length += row.length
        }
    }
}
