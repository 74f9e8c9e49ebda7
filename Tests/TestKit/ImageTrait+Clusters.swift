// Recipes for the plain mapping: every cluster size, both versions, every refcount width, zero clusters of both
// kinds, preallocation.

private let mib = 1 << 20

extension ImageTrait {
    static let clusters: [ImageTrait] = clusterSizes + refcountWidths + zeroClusters + preallocated

    private static let clusterSizes: [ImageTrait] = ["0.10", "1.1"].flatMap { compat in
        (9...21).map { bits in
            ImageTrait("cluster-\(1 << bits)-compat-\(compat)") { builder in
                let size = bits >= 18 ? 12 * mib : 2 * mib
                try builder.create("\(size)", "cluster_size=\(1 << bits),compat=\(compat)")
                try builder.scribble(size)
                try builder.io(["discard \(size / 2 + size / 16) \(size / 32)"])
            }
        }
    }

    private static let refcountWidths: [ImageTrait] = [1, 2, 4, 8, 16, 32, 64].map { bits in
        ImageTrait("refcount-bits-\(bits)") { builder in
            try builder.create("3M", "refcount_bits=\(bits),cluster_size=4k")
            try builder.scribble(3 * mib)
            if bits > 1 { try builder.img("snapshot", "-c", "kept", "image.qcow2") }
            try builder.io(["write -P 0x77 1M 20k"])
        }.with { $0.snapshots = bits > 1 ? ["kept"] : [] }
    }

    private static let zeroClusters: [ImageTrait] = [
        ImageTrait("zero-plain") { builder in
            try builder.create("4M")
            try builder.io(["write -P 1 0 4M", "write -z -u 1M 1M", "write -z 3M 100k"])
        },
        ImageTrait("zero-allocated") { builder in
            try builder.create("4M")
            try builder.io(["write -P 1 0 2M", "write -z 512k 512k"])
        },
        ImageTrait("zero-allocated-partly-rewritten") { builder in
            try builder.create("4M")
            try builder.io(["write -P 1 0 2M", "write -z 512k 512k", "write -P 2 600k 1000", "write -P 3 1000k 4k"])
        },
        ImageTrait("zero-kept-by-discard-no-unref") { builder in
            try builder.create("4M")
            try builder.run(
                "qemu-io", "-c", "write -P 1 0 2M", "-c", "discard 512k 512k",
                "--image-opts", "driver=qcow2,discard=unmap,discard-no-unref=on,file.filename=image.qcow2")
        },
        ImageTrait("zero-over-backing") { builder in
            try builder.rawFile("base.raw", 4 * mib)
            try builder.create("", "", backing: "raw:base.raw")
            try builder.io(["write -z 1M 64k", "write -z -u 2M 1M", "discard 3500k 64k", "write -z 100000 5"])
        },
        ImageTrait("discarded-v2-overlay") { builder in
            try builder.rawFile("base.raw", 4 * mib)
            try builder.create("", "compat=0.10", backing: "raw:base.raw")
            try builder.io(["write -P 9 0 1M", "discard 0 512k", "discard 2M 512k"])
        },
        ImageTrait("empty") { builder in try builder.create("1M") },
        ImageTrait("full") { builder in
            try builder.create("1M")
            try builder.io(["write -P 0xee 0 1M"])
        },
        ImageTrait("fragmented") { builder in
            try builder.create("1M", "cluster_size=4k")
            try builder.io((0..<64).reversed().map { "write -P \($0 + 1) \($0 * 16384) 9000" })
        },
    ]

    private static let preallocated: [ImageTrait] =
        ["metadata", "falloc", "full"].flatMap { mode in
            ["off", "on"].map { subclusters in
                ImageTrait("preallocation-\(mode)-extended-l2-\(subclusters)") { builder in
                    try builder.create("4M", "preallocation=\(mode),extended_l2=\(subclusters)")
                    try builder.io(["write -P 1 1M 100000", "write -P 2 3M 512"])
                }
            }
        } + [
            ImageTrait("preallocation-metadata-untouched") { builder in
                try builder.create("16M", "preallocation=metadata")
            },
            ImageTrait("preallocation-metadata-unaligned-grown") { builder in
                try builder.create("1049088", "preallocation=metadata")
                try builder.img("resize", "-q", "image.qcow2", "2M")
            },
            ImageTrait("preallocation-extended-l2-over-backing") { builder in
                try builder.rawFile("base.raw", 4 * mib)
                try builder.create("", "preallocation=metadata,extended_l2=on", backing: "raw:base.raw")
                try builder.io(["write -P 1 1M 5000"])
            },
        ]
}
