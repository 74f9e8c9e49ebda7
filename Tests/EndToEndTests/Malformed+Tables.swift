// The table of broken mapping tables: L1 and L2 entries, subcluster bitmaps, compressed clusters, the snapshot table.
// Here only part of an image is lost, and `lost` says which.

import TestKit

private let copied: UInt64 = 1 << 63
private let mib = 1 << 20

extension Malformed {
    /// The first of the small image's L1 entries covers its first 32 KiB.
    private static func l1(_ name: String, _ change: @escaping @Sendable (UInt64, Patcher) -> UInt64) -> Malformed {
        .bytes("l1-entry-\(name)", .small) { $0.put(change($0.number(at: $0.l1(0)), $0), at: $0.l1(0)) }.losing(
            0..<32768)
    }

    static let l1Tables: [Malformed] = [
        l1("reserved-bit-0") { entry, _ in entry | 1 },
        l1("reserved-bit-8") { entry, _ in entry | 0x100 },
        l1("reserved-bit-56") { entry, _ in entry | 1 << 56 },
        l1("reserved-bit-62") { entry, _ in entry | 1 << 62 },
        l1("of-all-ones") { _, _ in .max },
        l1("past-end-of-file") { _, _ in copied | 1 << 40 },
        l1("at-the-largest-offset") { _, _ in copied | Patcher.offsetMask },
        l1("on-the-l1-table") { _, patcher in copied | patcher[.l1Offset] },
        l1("on-the-refcount-table") { _, patcher in copied | patcher[.refcountOffset] },
        .bytes("l1-entry-misaligned") { $0.put($0.number(at: $0.l1(0)) + 512, at: $0.l1(0)) }.losing(0..<2 * mib),
        .bytes("l1-entry-just-past-end-of-file") { patcher in
            let end = UInt64((patcher.bytes.count + 65535) / 65536 * 65536)
            patcher.put(copied | end, at: patcher.l1(0))
        }.losing(0..<2 * mib),
    ]

    /// The entry of the plain image's second cluster.
    private static func l2(
        _ name: String, _ base: Base = .plain, _ change: @escaping @Sendable (UInt64, Patcher) -> UInt64
    ) -> Malformed {
        .bytes("l2-entry-\(name)", base) { patcher in
            let place = patcher.l2(65536)
            patcher.put(change(patcher.number(at: place), patcher), at: place)
        }.losing(65536..<131072)
    }

    static let l2Tables: [Malformed] = [
        l2("reserved-bit-1") { entry, _ in entry | 2 },
        l2("reserved-bit-8") { entry, _ in entry | 0x100 },
        l2("reserved-bit-56") { entry, _ in entry | 1 << 56 },
        l2("reserved-bit-61") { entry, _ in entry | 1 << 61 },
        l2("misaligned") { entry, _ in entry + 512 },
        l2("past-end-of-file") { _, _ in copied | 1 << 40 },
        l2("at-the-largest-offset") { _, _ in copied | (Patcher.offsetMask & ~0xffff) },
        l2("on-the-l1-table") { _, patcher in copied | patcher[.l1Offset] },
        l2("on-its-own-table") { _, patcher in copied | UInt64(patcher.l2Table(0)) },
        l2("on-the-refcount-table") { _, patcher in copied | patcher[.refcountOffset] },
        l2("zero-flag-in-version-2", .version2) { entry, _ in entry | 1 },
        l2("misaligned-zero-cluster") { _, _ in 512 | 1 },
    ]

    static let subclusterEntries: [Malformed] = [
        l2("with-the-zero-flag-of-standard-entries", .subclusters) { entry, _ in entry | 1 },
        .bytes("subcluster-both-allocated-and-zero", .subclusters) { patcher in
            patcher.put(1 << 32 | 0xffff_ffff, at: patcher.l2(65536) + 8)
        }.losing(65536..<131072),
        .bytes("subclusters-allocated-without-a-cluster", .subclusters) { patcher in
            patcher.put(0, at: patcher.l2(65536))
        }.losing(65536..<131072),
        .bytes("subclusters-of-a-compressed-cluster", .subclusters) { patcher in
            patcher.put(1 << 62 | UInt64(patcher.data(65536)), at: patcher.l2(65536))
        }.losing(65536..<131072),
    ]

    /// The descriptor of the compressed image's first cluster, which holds text and compresses well.
    private static func packed(
        _ name: String, _ base: Base = .zlib, _ harm: @escaping @Sendable (inout Patcher) -> Void
    )
        -> Malformed
    {
        .bytes("compressed-\(base)-\(name)", base, harm).losing(0..<65536)
    }

    static let compressedClusters: [Malformed] =
        [Base.zlib, .zstd].flatMap { base in
            [
                packed("past-end-of-file", base) { $0.put(1 << 62 | 1 << 40, at: $0.l2(0)) },
                packed("at-the-largest-offset", base) { $0.put(1 << 62 | (1 << 54 - 1), at: $0.l2(0)) },
                packed("on-the-header", base) { $0.put(1 << 62 | 1 << 54, at: $0.l2(0)) },
                packed("stream-of-garbage", base) { patcher in
                    var noise = SeededRandom(7)
                    patcher.put([0xff] + noise.bytes(200), at: patcher.compressedData(0))
                },
                packed("stream-of-zeros", base) { patcher in
                    patcher.put([UInt8](repeating: 0, count: 200), at: patcher.compressedData(0))
                },
                packed("stream-of-the-other-kind", base) { patcher in
                    let frame: [UInt8] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 9, 0, 0, 0x41]
                    let stream = base == .zlib ? frame : Deflate.zeros(matches: 260)
                    patcher.put(stream, at: patcher.compressedData(0))
                },
            ]
        } + [
            packed("stream-shorter-than-a-cluster") { patcher in
                patcher.put(Deflate.zeros(matches: 20), at: patcher.compressedData(0))
            },
            packed("stream-shorter-than-a-cluster", .zstd) { patcher in
                // A whole frame of one raw block of one byte.
                patcher.put([0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 9, 0, 0, 0x41], at: patcher.compressedData(0))
            },
            packed("stream-claiming-4-GiB", .zstd) { patcher in
                // Frame header: single segment, 8-byte content size; then a block of a repeated byte that lies.
                let frame: [UInt8] = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 0x03, 0, 0, 0x41]
                patcher.put(frame, at: patcher.compressedData(0))
            },
        ]

    /// Changes the one entry of the snapshot table.
    private static func entry(_ name: String, _ harm: @escaping @Sendable (inout Patcher, Int) -> Void) -> Malformed {
        .bytes("snapshot-\(name)", .snapshot) { harm(&$0, Int($0[.snapshotsOffset])) }
            .failing(.snapshot)
    }

    static let snapshots: [Malformed] = [
        .bytes("snapshot-table-past-end-of-file", .snapshot) { $0[.snapshotsOffset] = 1 << 40 }.failing(.snapshot),
        .bytes("snapshot-table-shorter-than-its-count", .snapshot) { $0[.snapshotCount] = 60_000 }.failing(),
        entry("l1-misaligned") { $0.put($0.number(at: $1) + 8, at: $1) },
        entry("l1-past-end-of-file") { $0.put(1 << 40, at: $1) },
        entry("l1-at-2-to-the-63") { $0.put(1 << 63, at: $1) },
        entry("l1-size-huge") { $0.put(0xffff_ffff, at: $1 + 8, width: 4) },
        entry("l1-size-zero") { $0.put(0, at: $1 + 8, width: 4) },
        entry("disk-size-huge") { $0.put(.max, at: $1 + 48) },
        entry("disk-size-beyond-its-l1-table") { $0.put(1 << 50, at: $1 + 48) },
        entry("extra-data-huge") { $0.put(0xffff_ffff, at: $1 + 36, width: 4) },
        entry("extra-data-over-the-limit") { $0.put(1025, at: $1 + 36, width: 4) },
        entry("id-length-huge") { $0.put(0xffff, at: $1 + 12, width: 2) },
        entry("name-length-huge") { $0.put(0xffff, at: $1 + 14, width: 2) },
        .bytes("snapshot-l2-entry-broken", .snapshot) { patcher in
            let l1 = Int(patcher.number(at: Int(patcher[.snapshotsOffset])))
            patcher.put(copied | 1 << 40, at: l1)
        }.failing(.snapshot, working: [.info, .convert, .compare, .extents]),
    ]
}
