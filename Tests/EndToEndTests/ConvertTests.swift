// What a guest would read is what matters most. For every trait, the bytes that qblk gives are those that qemu-img
// gives.

import Foundation
import TestKit
import Testing

@Suite("Convert and compare agree with qemu-img", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ConvertTests {
    static let readable = ImageTrait.all.filter { !$0.huge }

    @Test("convert -O raw gives qemu-img's bytes", arguments: readable)
    func convert(trait: ImageTrait) throws {
        let image = try trait.made()
        let reference = try image.reference()
        try Scratch.withFolder { folder in
            let options = ["-O", "raw"] + (trait.format == "raw" ? ["-f", "raw"] : [])
            let outcome = try image.qblk("convert", options, rest: ["\(folder)/out.raw"])
            try #require(outcome.exit == 0, "\(outcome)")
            let silent = outcome.errors.isEmpty || trait.name.hasPrefix("bitmap")
            #expect(silent, "a good image is converted without a word: \(outcome)")
            let difference = try differenceOfFiles("\(folder)/out.raw", reference)
            #expect(difference == nil, "\(difference ?? "")")
        }
    }

    @Test("compare with qemu-img's raw file says identical", arguments: readable)
    func compare(trait: ImageTrait) throws {
        let image = try trait.made()
        let reference = try image.reference()
        let outcome = try image.qblk("compare", ["-f", trait.format, "-F", "raw"], rest: [reference])
        #expect(outcome.exit == 0, "\(outcome)")
    }

    struct SnapshotCase: Sendable, CustomStringConvertible {
        let trait: ImageTrait
        let snapshot: String
        var description: String { "\(trait.name): \(snapshot)" }
    }
    static let snapshots = ImageTrait.all.flatMap { trait in
        trait.snapshots.map { SnapshotCase(trait: trait, snapshot: $0) }
    }

    @Test("convert -l gives qemu-img's bytes of the snapshot", arguments: snapshots)
    func convertSnapshot(of one: SnapshotCase) throws {
        let image = try one.trait.made()
        try Scratch.withFolder { folder in
            let options = ["-f", "qcow2", "-O", "raw", "-l", one.snapshot]
            let theirs = try image.qemu("convert", options, rest: ["\(folder)/theirs.raw"])
            try #require(theirs.exit == 0, "\(theirs)")
            let ours = try image.qblk("convert", options, rest: ["\(folder)/ours.raw"])
            try #require(ours.exit == 0, "\(ours)")
            // qemu-img gives every snapshot the size of the active disk; see the next test.
            let common = min(try fileSize("\(folder)/ours.raw"), try fileSize("\(folder)/theirs.raw"))
            let difference = try differenceOfFiles("\(folder)/ours.raw", "\(folder)/theirs.raw", limit: common)
            #expect(difference == nil, "\(difference ?? "")")
            #expect(common > 0)
        }
    }

    @Test("a snapshot is converted at its own size", arguments: ["small": 2 << 20, "large": 5 << 20])
    func snapshotSize(name: String, size: Int) throws {
        let image = try ImageTrait.named("snapshot-of-another-size").made()
        try Scratch.withFolder { folder in
            let outcome = try image.qblk("convert", ["-O", "raw", "-l", name], rest: ["\(folder)/out.raw"])
            try #require(outcome.exit == 0, "\(outcome)")
            #expect(try fileSize("\(folder)/out.raw") == size)
        }
    }

    @Test("a snapshot that is not there is one clear error")
    func missingSnapshot() throws {
        let image = try ImageTrait.named("snapshots").made()
        try Scratch.withFolder { folder in
            let outcome = try image.qblk("convert", ["-O", "raw", "-l", "nobody"], rest: ["\(folder)/out.raw"])
            #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.hasPrefix("qblk: "), "\(outcome)")
        }
    }

    @Test("a relative image name works from its own folder")
    func relativeName() throws {
        let image = try ImageTrait.named("chain-of-2").made()
        let reference = try image.reference()
        try Scratch.withFolder { folder in
            let outcome = try TestKit.qblk(
                "convert", "-O", "raw", "image.qcow2", "\(folder)/out.raw", in: image.folder)
            try #require(outcome.exit == 0, "\(outcome)")
            #expect(try differenceOfFiles("\(folder)/out.raw", reference) == nil)
        }
    }

    @Test(
        "convert leaves the image as it was",
        arguments: ["lazy-refcounts-dirty", "bitmaps", "unknown-autoclear-feature"])
    func untouched(name: String) throws {
        let image = try ImageTrait.named(name).made()
        try Scratch.withFolder { folder in
            try Command(["cp", image.path, "\(folder)/before"]).succeed()
            let outcome = try image.qblk("convert", ["-O", "raw"], rest: ["\(folder)/out.raw"])
            try #require(outcome.exit == 0, "\(outcome)")
            #expect(try differenceOfFiles(image.path, "\(folder)/before") == nil)
        }
    }

    /// The kernel sends SIGXFSZ, which would end the program without a word.
    @Test(
        "a limit on the size of files is an error of the write that meets it",
        .enabled(if: Tools.have("prlimit"), "needs prlimit (package util-linux)"))
    func sizeLimit() throws {
        try Scratch.withFolder { folder in
            try Command(["qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "4M"], in: folder).succeed()
            try Command(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M", "a.qcow2"], in: folder).succeed()
            let words = [Tools.qblk, "convert", "-O", "raw", "a.qcow2", "out.raw"]
            let outcome = try Command(["prlimit", "--fsize=1048576"] + words, in: folder).run()
            #expect(outcome.exit == 1 && outcome.errors.contains("File too large"), "\(outcome)")
        }
    }
}
