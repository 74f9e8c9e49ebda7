// A differential test is worth what its images are worth. These tests hold the recipes to their word with qemu-img
// alone, so they run before, and without, the program under test.

import Foundation
import TestKit
import Testing

@Suite("Image makers", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
struct ImageMakerTests {
    @Test("qemu-img check accepts the image", arguments: ImageTrait.all.filter { $0.format == "qcow2" })
    func good(trait: ImageTrait) throws {
        let image = try trait.made()
        let outcome = try image.qemu("check", ["-f", "qcow2"])
        // 63: external data files cannot be checked by some versions.
        #expect(outcome.exit.map { trait.check.union([63]).contains($0) } == true, "\(outcome)")
    }

    @Test("trait names are unique")
    func names() {
        #expect(Set(ImageTrait.all.map(\.name)).count == ImageTrait.all.count)
    }

    @Test("reading an image changes nothing in its map", arguments: ImageTrait.all.filter { !$0.qemuRefuses })
    func settled(trait: ImageTrait) throws {
        let image = try trait.made()
        let files = try Command(["find", image.folder, "-type", "f"]).succeed().output.split(separator: "\n")
        // Drops the pages of the file that the cache holds.
        for file in files { try Command(["dd", "if=\(file)", "iflag=nocache", "count=0", "status=none"]).succeed() }
        let before = try image.qemu("map", ["-f", trait.format, "--output=json"])
        try #require(before.exit == 0, "\(before)")
        for file in files { try Command(["cksum", "\(file)"]).succeed() }
        let after = try image.qemu("map", ["-f", trait.format, "--output=json"])
        #expect(before.output == after.output)
    }

    @Test("qemu-img refuses images with a broken bitmap directory", arguments: ImageTrait.all.filter(\.qemuRefuses))
    func refused(trait: ImageTrait) throws {
        let outcome = try qemuImg("info", try trait.made().path)
        #expect(outcome.exit == 1, "\(outcome)")
    }

    @Test("the compressed image ends in the middle of a sector")
    func endOfFile() throws {
        let image = try ImageTrait.named("compressed-last-sector-past-end-of-file").made()
        #expect(try fileSize(image.path) % 512 != 0)
    }
}
