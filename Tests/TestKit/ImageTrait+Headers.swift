// Recipes for what a header may say besides where the tables are: feature bits, extensions, bitmaps; and for images
// that are odd but right.

import Foundation

private let mib = 1 << 20

extension ImageTrait {
    static let headers: [ImageTrait] = [
        ImageTrait("unknown-compatible-feature") { builder in try builder.patchedHeader { $0[.compatible] |= 1 << 40 }
        },
        ImageTrait("unknown-autoclear-feature") { builder in try builder.patchedHeader { $0[.autoclear] |= 1 << 33 } },
        ImageTrait("unknown-header-extension") { builder in
            try builder.patchedHeader { $0.insertExtension(0x1234_abcd, Array("some tool's note".utf8)) }
        },
        ImageTrait("no-header-extensions") { builder in try builder.patchedHeader { $0.removeExtensions() } },
        ImageTrait("header-of-104-bytes") { builder in
            try builder.patchedHeader {
                $0.removeExtensions()
                $0[.headerLength] = 104
            }
        },
        ImageTrait("header-with-an-unknown-tail") { builder in
            try builder.patchedHeader {
                $0.removeExtensions()
                $0[.headerLength] = 136
                $0.put([UInt8](repeating: 0xa5, count: 24), at: 112)
            }
        },
        ImageTrait("lazy-refcounts-clean") { builder in
            try builder.create("2M", "lazy_refcounts=on")
            try builder.scribble(2 * mib)
        },
        ImageTrait("lazy-refcounts-dirty") { builder in
            try builder.create("2M", "lazy_refcounts=on")
            try builder.io(["write -P 1 0 1M", "flush", "sigraise 9"])
        }.with { $0.check = [0, 2, 3] },
        ImageTrait("marked-corrupt") { builder in
            try builder.patchedHeader { $0[.incompatible] |= 2 }
        }.with { $0.check = [0, 2, 3] },
        ImageTrait("converted-to-v2") { builder in
            try builder.create("2M")
            try builder.scribble(2 * mib)
            try builder.img("amend", "-o", "compat=0.10", "image.qcow2")
        },
        ImageTrait("copied-flags-missing") { builder in
            try builder.patchedHeader { patcher in
                let entry = patcher.l1(0)
                patcher.put(patcher.number(at: entry) & ~(1 << 63), at: entry)
                patcher.put(patcher.number(at: patcher.l2(0)) & ~(1 << 63), at: patcher.l2(0))
            }
        }.with { $0.check = [0, 2, 3] },
        ImageTrait("backing-name-of-no-length") { builder in
            try builder.rawFile("base.raw", 2 * mib)
            try builder.create("", "", backing: "raw:base.raw")
            try builder.scribble(2 * mib)
            try builder.patch { $0[.backingSize] = 0 }
        },
        ImageTrait("backing-format-given-twice") { builder in
            try builder.create("1M", "", as: "base.qcow2")
            try builder.scribble(mib, on: "base.qcow2")
            try builder.create("1M", "", backing: "qcow2:base.qcow2")
            try builder.patch { patcher in
                // The feature name table makes room for a second, equal backing format.
                guard let names = patcher.data(ofExtension: 0x6803_f857) else { return }
                patcher.put(
                    [0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 5] + Array("qcow2".utf8) + [0, 0, 0], at: names.lowerBound - 8)
                let rest = names.count - 16
                patcher.put([0x12, 0x34, 0xab, 0xcd, 0, 0], at: names.lowerBound + 8)
                patcher.put(UInt64(rest), at: names.lowerBound + 12, width: 4)
            }
        },
    ]

    static let oddities: [ImageTrait] =
        bitmaps + [
            ImageTrait("two-guest-clusters-on-one-host-cluster") { builder in
                try builder.create("1M")
                try builder.io(["write -P 1 0 64k", "write -P 2 64k 64k"])
                try builder.patch { patcher in
                    let shared = patcher.number(at: patcher.l2(0)) & ~(1 << 63)
                    patcher.put(shared, at: patcher.l2(0))
                    patcher.put(shared, at: patcher.l2(512 * 1024))
                    patcher.setRefcount(2, of: patcher.data(0) / 65536)
                }
            },
            ImageTrait("two-l1-entries-on-one-l2-table") { builder in
                try builder.create("128k", "cluster_size=512")
                try builder.io(["write -P 1 1024 512", "write -P 2 2048 512"])
                try builder.patch { patcher in
                    let shared = patcher.number(at: patcher.l1(0)) & ~(1 << 63)
                    patcher.put(shared, at: patcher.l1(0))
                    patcher.put(shared, at: patcher.l1(32768))
                }
            }.with { $0.check = [0, 2, 3] },
            ImageTrait("l2-table-beyond-the-first-l1-entry-only") { builder in
                try builder.create("1G")
                try builder.io(["write -P 1 600M 64k"])
            },
        ]

    private static let bitmaps: [ImageTrait] =
        [
            ImageTrait("bitmaps") { builder in
                try builder.create("4M")
                try builder.img("bitmap", "--add", "-g", "64k", "image.qcow2", "nightly")
                try builder.img("bitmap", "--add", "--disable", "-g", "4k", "image.qcow2", "asleep")
                try builder.scribble(4 * mib)
            },
            ImageTrait("bitmap-left-in-use") { builder in
                try builder.create("2M")
                try builder.img("bitmap", "--add", "image.qcow2", "torn")
                try builder.io(["write -P 1 0 1M", "flush", "sigraise 9"])
            }.with { $0.check = [0, 2, 3] },
            ImageTrait("bitmaps-stale") { builder in
                try builder.create("2M")
                try builder.img("bitmap", "--add", "image.qcow2", "stale")
                try builder.io(["write -P 1 0 1M"])
                try builder.patch { $0[.autoclear] &= ~1 }
            }.with { $0.check = [0, 2, 3] },
        ] + brokenBitmaps

    /// qemu-img refuses to open these, although no guest byte is harmed.
    private static let brokenBitmaps: [ImageTrait] = [
        broken("directory-past-the-end") { $0.put(1 << 40, at: $1.lowerBound + 16) },
        broken("directory-misaligned") { patcher, place in
            patcher.put(patcher.number(at: place.lowerBound + 16) + 7, at: place.lowerBound + 16)
        },
        broken("directory-size-huge") { $0.put(1 << 50, at: $1.lowerBound + 8) },
        broken("directory-size-too-small") { $0.put(3, at: $1.lowerBound + 8) },
        broken("count-zero") { $0.put(0, at: $1.lowerBound, width: 4) },
        broken("count-huge") { $0.put(0xffff_ffff, at: $1.lowerBound, width: 4) },
        broken("reserved-set") { $0.put(1, at: $1.lowerBound + 4, width: 4) },
        broken("directory-of-garbage") { patcher, place in
            let directory = Int(patcher.number(at: place.lowerBound + 16))
            patcher.put([UInt8](repeating: 0xff, count: 32), at: directory)
        },
        broken("table-past-the-end") { patcher, place in
            patcher.put(1 << 40, at: Int(patcher.number(at: place.lowerBound + 16)))
        }.with { $0.qemuRefuses = false },
    ]

    private static func broken(
        _ name: String, _ harm: @escaping @Sendable (inout Patcher, Range<Int>) -> Void
    ) -> ImageTrait {
        ImageTrait("bitmap-\(name)") { builder in
            try builder.create("2M")
            try builder.img("bitmap", "--add", "image.qcow2", "harmed")
            try builder.scribble(2 * mib)
            try builder.img("convert", "-O", "raw", "image.qcow2", "reference.raw")
            try builder.patch { patcher in
                guard let place = patcher.data(ofExtension: 0x2385_2875) else { return }
                harm(&patcher, place)
            }
        }.with {
            $0.qemuRefuses = true
            $0.check = [0, 1, 2, 3]
        }
    }
}

extension ImageBuilder {
    /// A scribbled image whose header is then changed.
    func patchedHeader(_ change: (inout Patcher) -> Void) throws {
        try create("2M")
        try scribble(2 * mib)
        try patch { change(&$0) }
    }
}
