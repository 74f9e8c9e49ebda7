// Recipes for backing chains: how layers of different sizes and cluster sizes add up, and from which folder a
// relative name is read.

private let mib = 1 << 20

extension ImageTrait {
    static let chains: [ImageTrait] = stacked + sized + named

    private static let stacked: [ImageTrait] = [
        ImageTrait("chain-of-2") { builder in
            try builder.layer("base.qcow2", "4M", "", nil, salt: 0)
            try builder.layer("image.qcow2", "4M", "", "qcow2:base.qcow2", salt: 1)
        },
        ImageTrait("chain-of-3-cluster-sizes") { builder in
            try builder.layer("base.qcow2", "4M", "cluster_size=2M", nil, salt: 0)
            try builder.layer("middle.qcow2", "4M", "cluster_size=512", "qcow2:base.qcow2", salt: 1)
            try builder.layer("image.qcow2", "4M", "cluster_size=64k", "qcow2:middle.qcow2", salt: 2)
        },
        ImageTrait("chain-of-4-with-a-raw-end") { builder in
            try builder.rawFile("base.raw", 4 * mib)
            try builder.layer("one.qcow2", "4M", "cluster_size=4k,compat=0.10", "raw:base.raw", salt: 1)
            try builder.layer("two.qcow2", "4M", "cluster_size=1M", "qcow2:one.qcow2", salt: 2)
            try builder.layer("image.qcow2", "4M", "extended_l2=on,cluster_size=16k", "qcow2:two.qcow2", salt: 3)
        },
        ImageTrait("chain-of-12") { builder in
            try builder.layer("0.qcow2", "1M", "cluster_size=4k", nil, salt: 0)
            for depth in 1...11 {
                let name = depth == 11 ? "image.qcow2" : "\(depth).qcow2"
                try builder.create("1M", "cluster_size=4k", backing: "qcow2:\(depth - 1).qcow2", as: name)
                try builder.io(["write -P \(depth) \(depth * 50_000) 40000"], on: name)
            }
        },
        ImageTrait("chain-with-holes-of-both-kinds") { builder in
            try builder.layer("base.qcow2", "4M", "", nil, salt: 0)
            try builder.create("4M", "", backing: "qcow2:base.qcow2", as: "middle.qcow2")
            try builder.io(["write -z -u 0 1M", "write -P 8 2M 64k", "discard 2M 64k"], on: "middle.qcow2")
            try builder.create("4M", "", backing: "qcow2:middle.qcow2")
        },
        ImageTrait("chain-on-a-sparse-raw-file") { builder in
            try builder.run("truncate", "-s", "4M", "base.raw")
            try builder.run("qemu-io", "-f", "raw", "-c", "write -P 1 1M 64k", "-c", "write -P 2 3M 1000", "base.raw")
            try builder.layer("image.qcow2", "4M", "", "raw:base.raw", salt: 1)
        },
    ]

    private static let sized: [ImageTrait] = [
        ImageTrait("backing-shorter") { builder in
            try builder.rawFile("base.raw", mib)
            try builder.create("4M", "", backing: "raw:base.raw")
            try builder.io(["write -P 1 1040000 20000"])
        },
        ImageTrait("backing-longer") { builder in
            try builder.rawFile("base.raw", 4 * mib)
            try builder.create("1000448", "", backing: "raw:base.raw")
        },
        ImageTrait("backing-of-odd-size") { builder in
            try builder.rawFile("base.raw", 5_000_001)
            try builder.create("8M", "", backing: "raw:base.raw")
            try builder.io(["write -P 1 5000100 10"])
        },
        ImageTrait("backing-of-odd-size-same-length") { builder in
            try builder.rawFile("base.raw", 5_000_001)
            try builder.create("", "", backing: "raw:base.raw")
        },
        ImageTrait("backing-shorter-than-a-cluster") { builder in
            try builder.rawFile("base.raw", 700)
            try builder.create("1M", "", backing: "raw:base.raw")
            try builder.io(["write -P 1 65536 10"])
        },
        // 4 to 8 MiB are zeros: the long base must not show through the short middle.
        ImageTrait("chain-with-a-shorter-middle") { builder in
            try builder.layer("base.qcow2", "8M", "", nil, salt: 0)
            try builder.create("4M", "", backing: "qcow2:base.qcow2", as: "middle.qcow2")
            try builder.create("8M", "", backing: "qcow2:middle.qcow2")
            try builder.io(["write -P 1 6M 1000"])
        },
        // What was grown must not expose the backing file.
        ImageTrait("chain-whose-overlay-was-grown") { builder in
            try builder.rawFile("base.raw", 8 * mib)
            try builder.create("3M", "", backing: "raw:base.raw")
            try builder.img("resize", "-q", "image.qcow2", "8M")
        },
    ]

    private static let named: [ImageTrait] = [
        ImageTrait("backing-in-a-subfolder") { builder in
            try builder.run("mkdir", "sub")
            try builder.layer("sub/base.qcow2", "2M", "", nil, salt: 0)
            try builder.create("2M", "", backing: "qcow2:sub/base.qcow2")
        },
        ImageTrait("overlay-in-a-subfolder-with-subfolder-names") { builder in
            try builder.run("mkdir", "-p", "sub/deep")
            try builder.layer("sub/deep/base.qcow2", "2M", "", nil, salt: 0)
            try builder.create("2M", "", backing: "qcow2:deep/base.qcow2", as: "sub/middle.qcow2")
            try builder.create("2M", "", backing: "qcow2:sub/middle.qcow2")
        },
        ImageTrait("overlay-reached-through-a-linked-folder") { builder in
            try builder.run("mkdir", "real")
            try builder.layer("real/base.qcow2", "2M", "", nil, salt: 0)
            try builder.create("2M", "", backing: "qcow2:base.qcow2", as: "real/image.qcow2")
            try builder.run("ln", "-s", "real", "linked")
        }.with { $0.image = "linked/image.qcow2" },
        ImageTrait("backing-is-a-link-in-the-same-folder") { builder in
            try builder.layer("base.qcow2", "2M", "", nil, salt: 0)
            try builder.run("ln", "-s", "base.qcow2", "link.qcow2")
            try builder.create("2M", "", backing: "qcow2:link.qcow2")
        },
        ImageTrait("backing-in-an-allowed-folder") { builder in
            try builder.run("mkdir", "over", "under")
            try builder.layer("under/base.qcow2", "2M", "", nil, salt: 0)
            try builder.create("2M", "", backing: "qcow2:../under/base.qcow2", as: "over/image.qcow2")
        }.with {
            $0.image = "over/image.qcow2"
            $0.allowed = ["under"]
        },
        ImageTrait("backing-named-absolutely-in-the-own-folder") { builder in
            try builder.layer("base.qcow2", "2M", "", nil, salt: 0)
            try builder.create("2M", "", backing: "qcow2:\(builder.path("base.qcow2"))")
        },
        ImageTrait("raw-backing-that-looks-like-qcow2") { builder in
            try builder.layer("inner.qcow2", "2M", "", nil, salt: 0)
            try builder.run("mv", "inner.qcow2", "base.raw")
            try builder.create("2M", "", backing: "raw:base.raw")
            try builder.io(["write -P 1 1500000 1000"])
        },
        ImageTrait("raw-image") { builder in
            try builder.run("truncate", "-s", "4M", "image.raw")
            try builder.run("qemu-io", "-f", "raw", "-c", "write -P 1 1M 64k", "-c", "write -P 2 3M 1000", "image.raw")
        }.with {
            $0.image = "image.raw"
            $0.format = "raw"
        },
        ImageTrait("raw-image-of-odd-size") { builder in
            try builder.rawFile("image.raw", 5_000_001)
        }.with {
            $0.image = "image.raw"
            $0.format = "raw"
        },
    ]
}

extension ImageBuilder {
    /// One layer of a chain, scribbled on.
    func layer(_ name: String, _ size: String, _ options: String, _ backing: String?, salt: Int) throws {
        try create(size, options, backing: backing, as: name)
        let bytes = (Int(size.dropLast()) ?? 1) * mib
        try scribble(bytes - salt * 100_000, salt: salt * 16, on: name)
    }
}
