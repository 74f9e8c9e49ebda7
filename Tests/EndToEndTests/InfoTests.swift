// Provisioning scripts read `info --json` in place of qemu-img's. A key that both print has the same value, and the
// keys scripts rely on are there.

import Foundation
import TestKit
import Testing

@Suite("Info agrees with qemu-img", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct InfoTests {
    /// What must be printed whenever qemu-img prints it.
    static let required = [
        "filename", "format", "virtual-size", "cluster-size", "actual-size", "backing-filename",
        "backing-filename-format", "full-backing-filename", "dirty-flag", "snapshots", "format-specific.type",
        "format-specific.data.compat", "format-specific.data.compression-type", "format-specific.data.lazy-refcounts",
        "format-specific.data.refcount-bits", "format-specific.data.corrupt", "format-specific.data.extended-l2",
        "format-specific.data.data-file", "format-specific.data.data-file-raw", "format-specific.data.bitmaps",
    ]

    @Test("info --json has qemu-img's keys and values", arguments: ImageTrait.all.filter { !$0.qemuRefuses })
    func info(trait: ImageTrait) throws {
        let image = try trait.made()
        // actual-size counts blocks, which the file system may assign late.
        try Command(["sync", image.path]).succeed()
        let options = trait.format == "raw" ? ["-f", "raw"] : []
        let theirs = try image.qemu("info", options + ["--output=json"]).json()
        let outcome = try image.qblk("info", options + ["--json"])
        try #require(outcome.exit == 0, "\(outcome)")
        let ours = try outcome.json()
        for key in Self.required {
            guard let their = theirs.at(key) else { continue }
            #expect(ours.at(key) != nil, "\(key) is missing; qemu-img says \(their)")
        }
        let differences = ours.differences(from: theirs)
        #expect(differences.isEmpty, "\(differences.joined(separator: "\n"))")
    }

    @Test("info --output=json is the same as --json")
    func outputOption() throws {
        let image = try ImageTrait.named("chain-of-2").made()
        let short = try image.qblk("info", ["--json"])
        let long = try image.qblk("info", ["--output=json"])
        #expect(short.exit == 0 && short.output == long.output, "\(short)\n\(long)")
    }

    @Test("info opens an image whose bitmaps are broken", arguments: ImageTrait.all.filter(\.qemuRefuses))
    func brokenBitmaps(trait: ImageTrait) throws {
        let outcome = try trait.made().qblk("info", ["--json"])
        try #require(outcome.exit == 0, "\(outcome)")
        #expect(try outcome.json().at("format")?.string == "qcow2")
    }

    @Test(
        "info --backing-chain lists every layer as qemu-img does",
        arguments: [
            "chain-of-2", "chain-of-4-with-a-raw-end", "chain-of-12", "backing-in-a-subfolder",
        ])
    func chain(name: String) throws {
        let image = try ImageTrait.named(name).made()
        let theirs = try image.qemu("info", ["--backing-chain", "--output=json"]).json()
        let outcome = try image.qblk("info", ["--backing-chain", "--json"])
        try #require(outcome.exit == 0, "\(outcome)")
        let ours = try outcome.json()
        #expect(ours.array?.count == theirs.array?.count, "\(ours)")
        let differences = ours.differences(from: theirs)
        #expect(differences.isEmpty, "\(differences.joined(separator: "\n"))")
    }

    @Test("info does not open what the image refers to")
    func referencesUntouched() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "base.qcow2")
            try builder.create("1M", backing: "qcow2:base.qcow2")
            try FileManager.default.removeItem(atPath: builder.path("base.qcow2"))
            let outcome = try qblk("info", "--json", builder.path("image.qcow2"))
            #expect(outcome.exit == 0, "\(outcome)")
        }
    }

    @Test("info for people names the format and the size")
    func human() throws {
        let outcome = try ImageTrait.named("snapshots").made().qblk("info")
        #expect(outcome.exit == 0, "\(outcome)")
        for word in ["qcow2", "4194304", "first", "second"] {
            #expect(outcome.output.contains(word), "\(word) is missing: \(outcome)")
        }
    }
}
