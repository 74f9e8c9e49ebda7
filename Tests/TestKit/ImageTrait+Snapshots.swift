// Recipes for internal snapshots, external data files, and sizes that change or are odd or huge.

private let mib = 1 << 20

extension ImageTrait {
    static let snapshotted: [ImageTrait] = [
        ImageTrait("snapshots") { builder in
            try builder.create("4M")
            try builder.scribble(4 * mib)
            try builder.img("snapshot", "-c", "first", "image.qcow2")
            try builder.io(["write -P 0x61 1M 200000", "discard 2M 128k"])
            try builder.img("snapshot", "-c", "second", "image.qcow2")
            try builder.io(["write -P 0x62 0 1000"])
        }.with { $0.snapshots = ["first", "second", "1", "2"] },
        ImageTrait("snapshot-of-another-size") { builder in
            try builder.create("2M")
            try builder.scribble(2 * mib)
            try builder.img("snapshot", "-c", "small", "image.qcow2")
            try builder.img("resize", "-q", "image.qcow2", "5M")
            try builder.io(["write -P 0x61 4M 64k"])
            try builder.img("snapshot", "-c", "large", "image.qcow2")
        }.with { $0.snapshots = ["small", "large"] },
        ImageTrait("snapshot-whose-name-is-another-id") { builder in
            try builder.create("1M")
            for (index, name) in ["2", "1"].enumerated() {
                try builder.io(["write -P \(index + 1) 0 1M"])
                try builder.img("snapshot", "-c", name, "image.qcow2")
            }
            try builder.io(["write -P 9 0 1M"])
        }.with { $0.snapshots = ["1", "2", "snapshot.id=1", "snapshot.name=1"] },
        ImageTrait("snapshot-with-vm-state", vmState).with {
            $0.snapshots = ["running"]
            $0.check = [0, 3]
        },
        ImageTrait("snapshot-over-backing") { builder in
            try builder.rawFile("base.raw", 2 * mib)
            try builder.create("", "", backing: "raw:base.raw")
            try builder.io(["write -P 1 1M 1000"])
            try builder.img("snapshot", "-c", "over", "image.qcow2")
            try builder.io(["write -z 0 1M"])
        }.with { $0.snapshots = ["over"] },
        ImageTrait("snapshot-v2") { builder in
            try builder.create("2M", "compat=0.10")
            try builder.scribble(2 * mib)
            try builder.img("snapshot", "-c", "old", "image.qcow2")
            try builder.io(["write -P 1 1M 1000"])
        }.with { $0.snapshots = ["old"] },
        ImageTrait("snapshot-deleted-and-applied") { builder in
            try builder.create("2M")
            try builder.scribble(2 * mib)
            try builder.img("snapshot", "-c", "a", "image.qcow2")
            try builder.io(["write -P 1 1M 1000"])
            try builder.img("snapshot", "-c", "b", "image.qcow2")
            try builder.img("snapshot", "-a", "a", "image.qcow2")
            try builder.img("snapshot", "-d", "a", "image.qcow2")
        }.with { $0.snapshots = ["b"] },
    ]

    /// A snapshot with VM state needs a running guest; its only traces are L1 entries past the disk's end and two
    /// numbers in the table, so half of a 128 KiB disk is declared to be VM state instead.
    private static let vmState: @Sendable (ImageBuilder) throws -> Void = { builder in
        try builder.create("128k", "cluster_size=512")
        try builder.io(["write -P 1 0 64k", "write -P 0x55 64k 64k"])
        try builder.img("snapshot", "-c", "running", "image.qcow2")
        try builder.patch { patcher in
            let entry = Int(patcher[.snapshotsOffset])
            patcher[.size] = 65536
            patcher.put(50_000, at: entry + 32, width: 4)
            patcher.put(50_000, at: entry + 40)
            patcher.put(65536, at: entry + 48)
        }
    }

    static let external: [ImageTrait] = dataFiles.map { $0.with { $0.runsInFolder = true } }

    private static let dataFiles: [ImageTrait] = [
        ImageTrait("data-file") { builder in
            try builder.create("4M", "data_file=disk.data")
            try builder.scribble(4 * mib)
            try builder.io(["discard 1M 128k"])
        },
        ImageTrait("data-file-raw") { builder in
            try builder.create("4M", "data_file=disk.data,data_file_raw=on")
            try builder.scribble(4 * mib)
        },
        ImageTrait("data-file-4k-clusters") { builder in
            try builder.create("1000448", "data_file=disk.data,cluster_size=4k")
            try builder.scribble(1_000_448)
        },
        ImageTrait("data-file-extended-l2") { builder in
            try builder.create("4M", "data_file=disk.data,extended_l2=on")
            try builder.scribble(4 * mib)
        },
        ImageTrait("data-file-over-backing") { builder in
            try builder.rawFile("base.raw", 4 * mib)
            try builder.create("", "data_file=disk.data", backing: "raw:base.raw")
            try builder.io(["write -P 1 0 64k", "write -P 2 1M 1000", "write -z 2M 128k"])
        },
        ImageTrait("data-file-preallocated") { builder in
            try builder.create("4M", "data_file=disk.data,preallocation=metadata")
            try builder.io(["write -P 1 1M 1000"])
        },
        ImageTrait("data-file-in-a-backing-file") { builder in
            try builder.create("2M", "data_file=disk.data", as: "base.qcow2")
            try builder.scribble(2 * mib, on: "base.qcow2")
            try builder.create("", "", backing: "qcow2:base.qcow2")
        },
    ]

    static let sizes: [ImageTrait] =
        [0, 512, 1536, 65536 + 512, 5_000_192, 3 * 65536 - 512].map { size in
            ImageTrait("size-\(size)") { builder in
                try builder.create("\(size)")
                if size > 0 { try builder.io(["write -P 1 0 512", "write -P 2 \(size - 512) 512"]) }
            }
        } + [
            ImageTrait("size-odd-in-the-header") { builder in
                try builder.create("1M")
                try builder.scribble(mib)
                try builder.patch { $0[.size] = 1_000_001 }
            },
            ImageTrait("grown") { builder in
                try builder.create("1000448")
                try builder.scribble(1_000_448)
                try builder.img("resize", "-q", "image.qcow2", "3M")
            },
            ImageTrait("shrunk") { builder in
                try builder.create("4M", "cluster_size=4k")
                try builder.scribble(4 * mib)
                try builder.img("resize", "-q", "--shrink", "image.qcow2", "2200064")
            },
            ImageTrait("shrunk-then-grown") { builder in
                try builder.create("4M")
                try builder.io(["write -P 1 0 4M"])
                try builder.img("resize", "-q", "--shrink", "image.qcow2", "1000448")
                try builder.img("resize", "-q", "image.qcow2", "2M")
            },
            ImageTrait("l1-larger-than-needed") { builder in
                try builder.create("2M", "cluster_size=512")
                try builder.scribble(2 * mib)
                try builder.img("resize", "-q", "--shrink", "image.qcow2", "1M")
            },
            ImageTrait("l1-grown") { builder in
                try builder.create("1M", "cluster_size=512")
                try builder.scribble(mib)
                try builder.img("resize", "-q", "image.qcow2", "16M")
                try builder.io(["write -P 3 15M 1000"])
            },
            ImageTrait("huge-2-PiB") { builder in
                try builder.create("2P", "cluster_size=2M")
                try builder.io(["write -P 3 1P 64k", "write -P 4 \(1 << 51 - 65536) 64k"])
            }.with { $0.huge = true },
            ImageTrait("huge-64-TiB-over-backing") { builder in
                try builder.rawFile("base.raw", mib)
                try builder.create("64T", "", backing: "raw:base.raw")
                try builder.io(["write -P 3 32T 64k", "write -z 48T 1M"])
            }.with { $0.huge = true },
        ]
}
