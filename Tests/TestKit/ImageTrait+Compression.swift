// Recipes for compressed clusters, which hide more corner cases than the rest of the format.

private let mib = 1 << 20

extension ImageTrait {
    static let compression: [ImageTrait] =
        converted + [
            ImageTrait("compressed-v2") { builder in
                try builder.rawFile("in.raw", 3 * mib)
                try builder.img("convert", "-c", "-O", "qcow2", "-o", "compat=0.10", "in.raw", "image.qcow2")
            },
            // Many clusters of one repeated byte: a dozen streams in one host cluster, several in one sector.
            ImageTrait("compressed-sharing-a-host-cluster") { builder in
                try builder.create("8M")
                try builder.io((0..<100).map { "write -c -P \($0 + 1) \($0 * 65536) 64k" })
            },
            ImageTrait("compressed-last-sector-past-end-of-file") { builder in
                try builder.create("1M")
                try builder.io(["write -c -P 5 0 64k", "write -c -P 6 64k 64k"])
                // qemu-img writes the exact bytes of the last stream; keep it so even if a version should pad it.
                try builder.patch { patcher in
                    let last = patcher.compressedData(65536)
                    let used = patcher.bytes.lastIndex { $0 != 0 } ?? last
                    patcher.truncate(to: used + 1)
                }
            },
            ImageTrait("compressed-overwritten-by-plain") { builder in
                try builder.create("2M")
                try builder.io((0..<16).map { "write -c -P \($0 + 1) \($0 * 65536) 64k" })
                try builder.io([
                    "write -P 0xaa 70000 100", "write -P 0xbb 256k 64k", "write -z 400000 9000", "discard 640k 64k",
                ])
            },
            ImageTrait("compressed-unaligned-size") { builder in
                try builder.rawFile("in.raw", 1_000_448)
                try builder.img("convert", "-c", "-O", "qcow2", "in.raw", "image.qcow2")
            },
            ImageTrait("compressed-base-plain-overlay") { builder in
                try builder.rawFile("in.raw", 4 * mib)
                try builder.img("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "in.raw", "base.qcow2")
                try builder.create("", "cluster_size=16k", backing: "qcow2:base.qcow2")
                try builder.io(["write -P 0xcc 100000 100000", "write -c -P 0xdd 2M 16k"])
            },
            ImageTrait("compressed-in-a-snapshot") { builder in
                try builder.create("2M")
                try builder.io(["write -c -P 1 0 64k", "write -c -P 2 64k 64k", "write -P 3 128k 64k"])
                try builder.img("snapshot", "-c", "packed", "image.qcow2")
                try builder.io(["write -P 4 1000 1000", "write -c -P 5 512k 64k"])
            }.with { $0.snapshots = ["packed"] },
            ImageTrait("compressed-stream-longer-than-a-cluster") { builder in
                try builder.create("1M", "cluster_size=4k")
                try builder.io(["write -c -P 9 8k 4k"])
                // A stream of a megabyte of zeros behind one cluster: the reader takes one cluster's worth and stops.
                try builder.patch { patcher in
                    let stream = Deflate.zeros(matches: 2000)
                    let place = patcher.appendCluster(stream)
                    let sectors = UInt64((stream.count + 511) / 512 - 1)
                    patcher.put(1 << 62 | sectors << 58 | UInt64(place), at: patcher.l2(8192))
                }
            }.with { $0.check = [0, 2, 3] },
            ImageTrait("compressed-extended-l2") { builder in
                try builder.rawFile("in.raw", 3 * mib)
                try builder.img(
                    "convert", "-c", "-O", "qcow2", "-o", "extended_l2=on,cluster_size=32k", "in.raw", "image.qcow2")
                try builder.io(["write -P 0x12 50000 1500"])
            },
            ImageTrait("compressed-after-discard") { builder in
                try builder.create("1M")
                try builder.io(["write -c -P 1 0 64k", "write -c -P 2 64k 64k"])
                try builder.io(["discard 0 64k"])
                try builder.io(["write -c -P 3 512k 64k"])
            },
        ]

    private static let converted: [ImageTrait] = ["zlib", "zstd"].flatMap { type in
        [512, 4096, 65536, 2 * mib].map { size in
            ImageTrait("compressed-\(type)-\(size)") { builder in
                try builder.rawFile("in.raw", 3 * mib + 512)
                try builder.img(
                    "convert", "-c", "-O", "qcow2", "-o", "compression_type=\(type),cluster_size=\(size)", "in.raw",
                    "image.qcow2")
            }
        }
    }

    static let subclusters: [ImageTrait] =
        [16384, 65536, 2 * mib].flatMap { size -> [ImageTrait] in
            let options = "extended_l2=on,cluster_size=\(size)"
            let sub = size / 32
            return [
                ImageTrait("extended-l2-\(size)-partly-written") { builder in
                    try builder.create("8M", options)
                    try builder.io([
                        "write -P 1 \(sub * 3) \(sub)", "write -P 2 \(size + sub * 31) \(sub * 2)",
                        "write -P 3 5M 1000",
                        "write -P 4 \(8 * mib - 100) 100",
                    ])
                },
                ImageTrait("extended-l2-\(size)-partly-zeroed-and-discarded") { builder in
                    try builder.create("8M", options)
                    try builder.io([
                        "write -P 1 0 8M", "write -z \(sub * 5) \(sub * 7)", "write -z -u \(size + sub) \(sub)",
                        "discard \(size * 2) \(size)", "discard \(size * 3 + sub) \(sub * 2)",
                        "write -P 2 \(sub * 6) 100",
                    ])
                },
                ImageTrait("extended-l2-\(size)-over-backing") { builder in
                    try builder.rawFile("base.raw", 8 * mib)
                    try builder.create("", options, backing: "raw:base.raw")
                    try builder.io([
                        "write -P 1 \(sub) \(sub)", "write -z \(sub * 3) \(sub)", "write -P 2 5M 100",
                        "write -z -u \(size) \(size)", "discard \(size + sub * 4) \(sub)",
                    ])
                },
            ]
        } + [
            ImageTrait("extended-l2-in-a-snapshot") { builder in
                try builder.create("4M", "extended_l2=on")
                try builder.io(["write -P 1 0 10000", "write -P 2 1M 2k"])
                try builder.img("snapshot", "-c", "sub", "image.qcow2")
                try builder.io(["write -P 3 3000 3000", "write -z 1M 2k"])
            }.with { $0.snapshots = ["sub"] }
        ]
}
