// `extents` is the map that other tools build tables and sparse copies from. It is held against `qemu-img map` entry
// by entry: same borders, same flags, same offsets.

import Foundation
import TestKit
import Testing

@Suite("Extents agree with qemu-img map", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ExtentsTests {
    static let keys = ["start", "length", "depth", "present", "zero", "data", "compressed", "offset"]
    static let mappable = ImageTrait.all.filter { !$0.qemuRefuses }

    @Test("the whole image", arguments: mappable)
    func whole(trait: ImageTrait) throws {
        try expectSame(trait, [])
    }

    struct Window: Sendable, CustomStringConvertible {
        let trait: ImageTrait
        let options: [String]
        var description: String { "\(trait.name) \(options.joined(separator: " "))" }
    }
    static let windows: [Window] = [
        "cluster-65536-compat-1.1", "cluster-512-compat-1.1", "compressed-zlib-65536", "chain-of-4-with-a-raw-end",
        "extended-l2-65536-over-backing", "backing-of-odd-size", "huge-2-PiB",
    ].map { ImageTrait.named($0) }.flatMap { trait in
        [
            ["--start-offset=1M"], ["--max-length=1M"], ["--start-offset=512", "--max-length=65536"],
            ["--start-offset=1000000", "--max-length=300000"], ["--max-length=512"], ["--start-offset=1P"],
            ["--max-length=0"],
        ].map { Window(trait: trait, options: $0) }
    }

    @Test("a window of the image", arguments: windows)
    func window(_ window: Window) throws {
        try expectSame(window.trait, window.options)
    }

    @Test("extents cover the image without gap or overlap", arguments: mappable)
    func complete(trait: ImageTrait) throws {
        let image = try trait.made()
        let format = trait.format == "raw" ? ["-f", "raw"] : []
        let outcome = try image.qblk("extents", format + ["--json"])
        try #require(outcome.exit == 0, "\(outcome)")
        let size = try image.qblk("info", format + ["--json"]).json().at("virtual-size")?.integer
        var next: Int64 = 0
        for extent in try outcome.json().array ?? [] {
            #expect(extent["start"]?.integer == next, "\(extent)")
            next += extent["length"]?.integer ?? 0
        }
        #expect(next == size)
    }

    private func expectSame(_ trait: ImageTrait, _ options: [String]) throws {
        let image = try trait.made()
        let format = trait.format == "raw" ? ["-f", "raw"] : []
        let theirs = try image.qemu("map", format + ["--output=json"] + options)
        try #require(theirs.exit == 0, "\(theirs)")
        let outcome = try image.qblk("extents", format + ["--json"] + options)
        try #require(outcome.exit == 0, "\(outcome)")
        let their = lines(of: try theirs.json())
        let our = lines(of: try outcome.json())
        let first = zip(our, their).first { $0 != $1 }
        #expect(first == nil, "first difference: qblk \(first?.0 ?? ""), qemu-img \(first?.1 ?? "")")
        #expect(our.count == their.count, "\(our.count) extents, qemu-img has \(their.count)")
    }

    /// One line an extent, with the keys that count.
    private func lines(of map: JSONValue) -> [String] {
        (map.array ?? []).map { entry in
            Self.keys.map { key in "\(key)=\(entry[key]?.description ?? "none")" }.joined(separator: " ")
        }
    }
}
