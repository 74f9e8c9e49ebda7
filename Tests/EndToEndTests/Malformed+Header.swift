// The table of broken headers: each field out of its range, feature bits, header extensions.

import TestKit

extension Malformed {
    static let headerFields: [Malformed] = [
        .bytes("magic") { $0[.magic] = 0 },
        .bytes("version-1") { $0[.version] = 1 },
        .bytes("version-4") { $0[.version] = 4 },
        .bytes("version-huge") { $0[.version] = 0xffff_ffff },
        .bytes("cluster-bits-0") { $0[.clusterBits] = 0 },
        .bytes("cluster-bits-8") { $0[.clusterBits] = 8 },
        .bytes("cluster-bits-22") { $0[.clusterBits] = 22 },
        .bytes("cluster-bits-63") { $0[.clusterBits] = 63 },
        .bytes("cluster-bits-huge") { $0[.clusterBits] = 0xffff_ffff },
        .bytes("size-of-all-ones") { $0[.size] = .max },
        .bytes("size-of-2-to-the-63") { $0[.size] = 1 << 63 },
        .bytes("size-just-below-2-to-the-63") { $0[.size] = 1 << 63 - 512 },
        .bytes("size-beyond-the-l1-table") { $0[.size] = 1 << 40 },
        .bytes("crypt-unknown") { $0[.crypt] = 3 },
        .bytes("crypt-huge") { $0[.crypt] = 0xffff_ffff },
        .bytes("l1-size-zero") { $0[.l1Size] = 0 },
        .bytes("l1-size-huge") { $0[.l1Size] = 0xffff_ffff },
        .bytes("l1-size-over-the-limit") { $0[.l1Size] = 4_194_305 },
        .bytes("l1-size-at-the-limit-past-end-of-file") { $0[.l1Size] = 4_194_304 }.failing(.convert, .compare),
        .bytes("l1-misaligned") { $0[.l1Offset] += 8 },
        .bytes("l1-past-end-of-file") { $0[.l1Offset] = 1 << 40 }.failing(.convert, .compare, .extents),
        .bytes("l1-at-2-to-the-63") { $0[.l1Offset] = 1 << 63 },
        .bytes("l1-of-all-ones") { $0[.l1Offset] = .max },
        .bytes("l1-on-the-header") { $0[.l1Offset] = 0 }.failing(.convert, .compare, .extents),
        .bytes("l1-on-the-refcount-table") { $0[.l1Offset] = $0[.refcountOffset] }.failing(
            .convert, .compare, .extents),
        .bytes("refcount-table-misaligned") { $0[.refcountOffset] += 8 },
        .bytes("refcount-table-at-2-to-the-63") { $0[.refcountOffset] = 1 << 63 },
        .bytes("refcount-table-past-end-of-file") { $0[.refcountOffset] = 1 << 40 }.tolerable,
        .bytes("refcount-table-on-the-header") { $0[.refcountOffset] = 0 }.tolerable,
        .bytes("refcount-table-on-the-l1-table") { $0[.refcountOffset] = $0[.l1Offset] }.tolerable,
        .bytes("refcount-table-of-no-clusters") { $0[.refcountClusters] = 0 },
        .bytes("refcount-table-of-too-many-clusters") { $0[.refcountClusters] = 129 },
        .bytes("refcount-table-of-huge-size") { $0[.refcountClusters] = 0xffff_ffff },
        .bytes("refcount-order-7") { $0[.refcountOrder] = 7 },
        .bytes("refcount-order-huge") { $0[.refcountOrder] = 0xffff_ffff },
        .bytes("header-length-0") { $0[.headerLength] = 0 },
        .bytes("header-length-72") { $0[.headerLength] = 72 },
        .bytes("header-length-103") { $0[.headerLength] = 103 },
        .bytes("header-length-105") { $0[.headerLength] = 105 }.tolerable,
        .bytes("header-length-past-the-cluster") { $0[.headerLength] = 65544 },
        .bytes("header-length-huge") { $0[.headerLength] = 0xffff_fff8 },
        .bytes("snapshot-count-over-the-limit") { $0[.snapshotCount] = 65537 },
        .bytes("snapshot-count-huge") { $0[.snapshotCount] = 0xffff_ffff },
        .bytes("snapshots-misaligned") { patcher in
            patcher[.snapshotCount] = 1
            patcher[.snapshotsOffset] = 65544
        },
        .bytes("snapshots-at-2-to-the-63") { patcher in
            patcher[.snapshotCount] = 1
            patcher[.snapshotsOffset] = 1 << 63
        },
        .bytes("aes-encrypted") { $0[.crypt] = 1 }.failing(.convert, .compare, working: [.info]).mentioning("encrypt"),
        .files("luks-encrypted") { builder in
            try builder.run(
                "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=open", "-o",
                "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10", "image.qcow2", "1M")
        }.failing(.convert, .compare, working: [.info]).mentioning("encrypt"),
    ]

    static let features: [Malformed] = [
        .bytes("unknown-incompatible-bit-5") { patcher in
            patcher.removeExtensions()
            patcher[.incompatible] |= 1 << 5
        }.mentioning("5"),
        .bytes("unknown-incompatible-bit-63") { $0[.incompatible] |= 1 << 63 }.mentioning("63"),
        .bytes("unknown-incompatible-bit-with-a-name") { patcher in
            guard let table = patcher.data(ofExtension: 0x6803_f857) else { return }
            patcher.put([0, 5] + Array("teleporting".utf8) + [UInt8](repeating: 0, count: 35), at: table.lowerBound)
            patcher[.incompatible] |= 1 << 5
        }.mentioning("teleporting"),
        .bytes("unknown-incompatible-bit-with-a-hostile-name") { patcher in
            guard let table = patcher.data(ofExtension: 0x6803_f857) else { return }
            patcher.put([0, 5] + Array("a\nqblk: all is well\u{1b}[2J".utf8), at: table.lowerBound)
            patcher[.incompatible] |= 1 << 5
        },
        .bytes("compression-type-without-its-bit") { $0[.compression] = 1 },
        .bytes("compression-bit-without-a-type") { $0[.incompatible] |= 8 },
        .bytes("compression-type-unknown") { patcher in
            patcher[.incompatible] |= 8
            patcher[.compression] = 2
        },
        .bytes("data-file-bit-without-a-name") { $0[.incompatible] |= 4 }.failing(.convert, .compare),
        .bytes("data-file-raw-without-a-data-file") { $0[.autoclear] |= 2 }.tolerable,
        .bytes("extended-l2-with-small-clusters", .small) { $0[.incompatible] |= 16 },
    ]

    static let extensions: [Malformed] = [
        .bytes("extension-past-the-cluster") { $0.insertExtension(0x1234_abcd, [1], length: 65536) },
        .bytes("extension-of-huge-length") { $0.insertExtension(0x1234_abcd, [1], length: 0xffff_ffff) },
        .bytes("extension-just-past-the-cluster") { $0.insertExtension(0x1234_abcd, [1], length: 65536 - 112 - 7) },
        .bytes("extension-unknown") { $0.insertExtension(0x1234_abcd, [1, 2, 3]) }.harmless,
        .bytes("extension-unknown-twice") { patcher in
            for _ in 0..<2 { patcher.insertExtension(0x1234_abcd, [1, 2, 3]) }
        }.harmless,
        .bytes("extension-of-no-length") { $0.insertExtension(0x1234_abcd, []) }.harmless,
        .bytes("backing-format-too-long") { $0.insertExtension(0xe279_2aca, Array("a-format-of-the-future".utf8)) }
            .tolerable,
        .bytes("backing-format-without-backing") { $0.insertExtension(0xe279_2aca, Array("qcow2".utf8)) }.tolerable,
        .bytes("luks-header-without-encryption") { patcher in
            patcher.insertExtension(0x0537_be77, [0, 0, 0, 0, 0, 1, 0, 0] + [0, 0, 0, 0, 0, 0, 2, 0])
        }.tolerable,
        .bytes("bitmaps-extension-too-short") { patcher in
            patcher.insertExtension(0x2385_2875, [0, 0, 0, 1])
            patcher[.autoclear] |= 1
        }.harmless,
        .bytes("feature-names-of-odd-length") { $0.insertExtension(0x6803_f857, [UInt8](repeating: 65, count: 50)) }
            .tolerable,
    ]
}
