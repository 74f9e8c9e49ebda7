// Why this file exists: recipes for internal snapshots, external data files, and sizes that change or are odd or huge.

private let mib = 1 << 20

extension ImageTrait {
    static let snapshotted: [ImageTrait] = [
        ImageTrait("snapshots") { shop in
            try shop.create("4M")
            try shop.scribble(4 * mib)
            try shop.img("snapshot", "-c", "first", "image.qcow2")
            try shop.io(["write -P 0x61 1M 200000", "discard 2M 128k"])
            try shop.img("snapshot", "-c", "second", "image.qcow2")
            try shop.io(["write -P 0x62 0 1000"])
        }.with { $0.snapshots = ["first", "second", "1", "2"] },
        ImageTrait("snapshot-of-another-size") { shop in
            try shop.create("2M")
            try shop.scribble(2 * mib)
            try shop.img("snapshot", "-c", "small", "image.qcow2")
            try shop.img("resize", "-q", "image.qcow2", "5M")
            try shop.io(["write -P 0x61 4M 64k"])
            try shop.img("snapshot", "-c", "large", "image.qcow2")
        }.with { $0.snapshots = ["small", "large"] },
        ImageTrait("snapshot-whose-name-is-another-id") { shop in
            try shop.create("1M")
            for (index, name) in ["2", "1"].enumerated() {
                try shop.io(["write -P \(index + 1) 0 1M"])
                try shop.img("snapshot", "-c", name, "image.qcow2")
            }
            try shop.io(["write -P 9 0 1M"])
        }.with { $0.snapshots = ["1", "2", "snapshot.id=1", "snapshot.name=1"] },
        ImageTrait("snapshot-with-vm-state", vmState).with {
            $0.snapshots = ["running"]
            $0.check = [0, 3]
        },
        ImageTrait("snapshot-over-backing") { shop in
            try shop.rawFile("base.raw", 2 * mib)
            try shop.create("", "", backing: "raw:base.raw")
            try shop.io(["write -P 1 1M 1000"])
            try shop.img("snapshot", "-c", "over", "image.qcow2")
            try shop.io(["write -z 0 1M"])
        }.with { $0.snapshots = ["over"] },
        ImageTrait("snapshot-v2") { shop in
            try shop.create("2M", "compat=0.10")
            try shop.scribble(2 * mib)
            try shop.img("snapshot", "-c", "old", "image.qcow2")
            try shop.io(["write -P 1 1M 1000"])
        }.with { $0.snapshots = ["old"] },
        ImageTrait("snapshot-deleted-and-applied") { shop in
            try shop.create("2M")
            try shop.scribble(2 * mib)
            try shop.img("snapshot", "-c", "a", "image.qcow2")
            try shop.io(["write -P 1 1M 1000"])
            try shop.img("snapshot", "-c", "b", "image.qcow2")
            try shop.img("snapshot", "-a", "a", "image.qcow2")
            try shop.img("snapshot", "-d", "a", "image.qcow2")
        }.with { $0.snapshots = ["b"] },
    ]

    /// A snapshot with VM state needs a running guest; its only traces are L1 entries past the disk's end and two
    /// numbers in the table, so half of a 128 KiB disk is declared to be VM state instead.
    private static let vmState: @Sendable (Workshop) throws -> Void = { shop in
        try shop.create("128k", "cluster_size=512")
        try shop.io(["write -P 1 0 64k", "write -P 0x55 64k 64k"])
        try shop.img("snapshot", "-c", "running", "image.qcow2")
        try shop.patch { patcher in
            let entry = Int(patcher[.snapshotsOffset])
            patcher[.size] = 65536
            patcher.put(50_000, at: entry + 32, width: 4)
            patcher.put(50_000, at: entry + 40)
            patcher.put(65536, at: entry + 48)
        }
    }

    static let external: [ImageTrait] = dataFiles.map { $0.with { $0.runsInFolder = true } }

    private static let dataFiles: [ImageTrait] = [
        ImageTrait("data-file") { shop in
            try shop.create("4M", "data_file=disk.data")
            try shop.scribble(4 * mib)
            try shop.io(["discard 1M 128k"])
        },
        ImageTrait("data-file-raw") { shop in
            try shop.create("4M", "data_file=disk.data,data_file_raw=on")
            try shop.scribble(4 * mib)
        },
        ImageTrait("data-file-4k-clusters") { shop in
            try shop.create("1000448", "data_file=disk.data,cluster_size=4k")
            try shop.scribble(1_000_448)
        },
        ImageTrait("data-file-extended-l2") { shop in
            try shop.create("4M", "data_file=disk.data,extended_l2=on")
            try shop.scribble(4 * mib)
        },
        ImageTrait("data-file-over-backing") { shop in
            try shop.rawFile("base.raw", 4 * mib)
            try shop.create("", "data_file=disk.data", backing: "raw:base.raw")
            try shop.io(["write -P 1 0 64k", "write -P 2 1M 1000", "write -z 2M 128k"])
        },
        ImageTrait("data-file-preallocated") { shop in
            try shop.create("4M", "data_file=disk.data,preallocation=metadata")
            try shop.io(["write -P 1 1M 1000"])
        },
        ImageTrait("data-file-in-a-backing-file") { shop in
            try shop.create("2M", "data_file=disk.data", as: "base.qcow2")
            try shop.scribble(2 * mib, on: "base.qcow2")
            try shop.create("", "", backing: "qcow2:base.qcow2")
        },
    ]

    static let sizes: [ImageTrait] =
        [0, 512, 1536, 65536 + 512, 5_000_192, 3 * 65536 - 512].map { size in
            ImageTrait("size-\(size)") { shop in
                try shop.create("\(size)")
                if size > 0 { try shop.io(["write -P 1 0 512", "write -P 2 \(size - 512) 512"]) }
            }
        } + [
            ImageTrait("size-odd-in-the-header") { shop in
                try shop.create("1M")
                try shop.scribble(mib)
                try shop.patch { $0[.size] = 1_000_001 }
            },
            ImageTrait("grown") { shop in
                try shop.create("1000448")
                try shop.scribble(1_000_448)
                try shop.img("resize", "-q", "image.qcow2", "3M")
            },
            ImageTrait("shrunk") { shop in
                try shop.create("4M", "cluster_size=4k")
                try shop.scribble(4 * mib)
                try shop.img("resize", "-q", "--shrink", "image.qcow2", "2200064")
            },
            ImageTrait("shrunk-then-grown") { shop in
                try shop.create("4M")
                try shop.io(["write -P 1 0 4M"])
                try shop.img("resize", "-q", "--shrink", "image.qcow2", "1000448")
                try shop.img("resize", "-q", "image.qcow2", "2M")
            },
            ImageTrait("l1-larger-than-needed") { shop in
                try shop.create("2M", "cluster_size=512")
                try shop.scribble(2 * mib)
                try shop.img("resize", "-q", "--shrink", "image.qcow2", "1M")
            },
            ImageTrait("l1-grown") { shop in
                try shop.create("1M", "cluster_size=512")
                try shop.scribble(mib)
                try shop.img("resize", "-q", "image.qcow2", "16M")
                try shop.io(["write -P 3 15M 1000"])
            },
            ImageTrait("huge-2-PiB") { shop in
                try shop.create("2P", "cluster_size=2M")
                try shop.io(["write -P 3 1P 64k", "write -P 4 \(1 << 51 - 65536) 64k"])
            }.with { $0.huge = true },
            ImageTrait("huge-64-TiB-over-backing") { shop in
                try shop.rawFile("base.raw", mib)
                try shop.create("64T", "", backing: "raw:base.raw")
                try shop.io(["write -P 3 32T 64k", "write -z 48T 1M"])
            }.with { $0.huge = true },
        ]
}
