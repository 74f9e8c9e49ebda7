// Scripts branch on check's exit code and read its JSON. Both are qemu-img's, on images that qemu-img made, sound and
// damaged.

import TestKit
import Testing

@Suite("Check says what qemu-img check says", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct CheckCommandTests {
    static let options =
        [1, 2, 4, 8, 16, 32, 64].map { "refcount_bits=\($0)" }
        + ["512", "4k", "2M"].map { "cluster_size=\($0)" }
        + ["compat=0.10", "extended_l2=on", "compression_type=zstd", "lazy_refcounts=on", "preallocation=metadata"]
    static let keys = [
        "image-end-offset", "total-clusters", "check-errors", "corruptions", "leaks", "allocated-clusters",
        "fragmented-clusters", "compressed-clusters",
    ]

    private func agree(_ image: String) throws {
        let theirs = try qemuImg("check", "--output=json", image)
        let ours = try qblk("check", "--json", image)
        #expect(ours.exit == theirs.exit, "\(ours)")
        let (mine, other) = (try ours.json(), try theirs.json())
        for key in Self.keys { #expect(mine[key] == other[key], "\(key)") }
    }

    @Test("a sound image has the same numbers", arguments: options)
    func sound(options: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("8M", options)
            try builder.scribble(8 << 20)
            if options != "refcount_bits=1" { try builder.img("snapshot", "-c", "one", "image.qcow2") }
            // QEMU compresses whole clusters only, and only where nothing is allocated.
            if options != "preallocation=metadata", options != "cluster_size=2M" {
                try builder.io(["write -c -P 7 6M 64k"])
            }
            try builder.io(["write -P 8 300k 100k"])
            try agree(builder.path("image.qcow2"))
        }
    }

    @Test("a leak and a lost refcount have the same codes, and -r all ends both", arguments: [UInt64(2), 0])
    func damaged(count: UInt64) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            let image = builder.path("image.qcow2")
            try builder.create("8M")
            try builder.scribble(8 << 20)
            // The refcount table's own cluster: nothing has a COPIED flag for it.
            try builder.patch { $0.setRefcount(count, of: 1) }
            try agree(image)
            let repaired = try qblk("check", "-r", "all", "--json", image)
            #expect(repaired.exit == 0, "\(repaired)")
            #expect(try qemuImg("check", image).exit == 0)
        }
    }

    @Test("an image is checked without its backing file")
    func withoutBacking() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "base")
            try builder.create("1M", backing: "qcow2:base", as: "top")
            try builder.io(["write -q -P 1 0 64k"], on: "top")
            let whole = try qemuImg("check", "--output=json", "top", in: folder)
            try builder.run("rm", "base")
            // qemu-img opens the whole chain first.
            #expect(try qemuImg("check", "top", in: folder).exit == 1)
            let outcome = try qblk("check", "--output=json", "top", in: folder)
            #expect(outcome.exit == 0 && outcome.errors.isEmpty, "\(outcome)")
            #expect(try outcome.json() == whole.json())
        }
    }

    @Test("a raw image has nothing to check")
    func raw() throws {
        let file = try Scratch.newFile("raw")
        #expect(try qblk("check", file).exit == 63)
    }
}
