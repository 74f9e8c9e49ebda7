// The table of names and files that must not be followed: loops, devices, URLs, files outside the image's folder; and
// of files that are no image at all, or only the beginning of one.

import Foundation
import TestKit

private let mib = 1 << 20

extension Malformed {
    static let backingNames: [Malformed] = [
        .bytes("backing-name-past-the-first-cluster", .overlay) { $0[.backingOffset] = 65536 + 8 },
        .bytes("backing-name-across-the-cluster-end", .overlay) { $0[.backingOffset] = 65536 - 3 },
        .bytes("backing-name-at-2-to-the-63", .overlay) { $0[.backingOffset] = 1 << 63 },
        .bytes("backing-name-of-1024-bytes", .overlay) { $0[.backingSize] = 1024 },
        .bytes("backing-name-huge", .overlay) { $0[.backingSize] = 0xffff_ffff },
        .bytes("backing-name-inside-the-header", .overlay) { $0[.backingOffset] = 8 }.failing(.convert, .compare),
        .bytes("backing-name-with-a-nul", .overlay) { $0.put([0], at: Int($0[.backingOffset]) + 3) }
            .failing(.convert, .compare),
        .bytes("backing-format-unknown", .overlay) { patcher in
            guard let format = patcher.data(ofExtension: 0xe279_2aca) else { return }
            patcher.put(Array("rot".utf8), at: format.lowerBound)
        }.onlyData,
        .bytes("backing-format-wrong", .overlay) { patcher in
            // "raw" has three letters, as has "vdi"; the base is no such image.
            guard let format = patcher.data(ofExtension: 0xe279_2aca) else { return }
            patcher.put(Array("vdi".utf8), at: format.lowerBound)
        }.onlyData,
    ]

    /// An overlay of a given backing name, which qemu-img does not look at.
    private static func naming(
        _ name: String, _ backing: String, format: String = "raw",
        _ arrange: @escaping @Sendable (ImageBuilder) throws -> Void = { _ in }
    ) -> Malformed {
        .files("backing-\(name)") { builder in
            try builder.overlay("image.qcow2", backing, format: format)
            try arrange(builder)
        }.onlyData
    }

    static let backingFiles: [Malformed] = [
        naming("missing", "nowhere.raw").mentioning("nowhere.raw"),
        naming("self", "image.qcow2", format: "qcow2"),
        naming("self-by-another-name", "link.qcow2", format: "qcow2") { try $0.run("ln", "image.qcow2", "link.qcow2") },
        naming("loop-of-2", "b.qcow2", format: "qcow2") { try $0.overlay("b.qcow2", "image.qcow2") },
        naming("loop-of-3", "b.qcow2", format: "qcow2") { builder in
            try builder.overlay("b.qcow2", "c.qcow2")
            try builder.overlay("c.qcow2", "image.qcow2")
        },
        naming("loop-below-the-top", "b.qcow2", format: "qcow2") { try $0.overlay("b.qcow2", "b.qcow2") },
        naming("fifo", "pipe") { try $0.run("mkfifo", "pipe") },
        naming("folder", "folder") { try $0.run("mkdir", "folder") },
        naming("folder-dot", "."),
        naming("character-device", "zero") { try $0.run("mknod", "zero", "c", "1", "5") },
        naming("socket", "socket") { try makeSocket($0.path("socket")) },
        naming("dangling-link", "link") { try $0.run("ln", "-s", "nowhere", "link") },
        naming("link-to-itself", "link") { try $0.run("ln", "-s", "link", "link") },
        naming("json", "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}"),
        naming("json-null", "json:{\"driver\":\"null-co\"}"),
        naming("nbd", "nbd://localhost:10809/disk"),
        naming("http", "http://localhost/disk.raw"),
        naming("ssh", "ssh://localhost/disk.raw"),
        naming("file-url", "file:///etc/passwd"),
        naming("fat", "fat:rw:."),
        naming("absolute", "/etc/passwd").mentioning("--allow-path"),
        naming("in-the-parent-folder", "../outside.raw") { try $0.run("touch", "../outside.raw") }
            .mentioning("--allow-path"),
        // Policy speaks before the file system: an image must not learn (or tell) what exists elsewhere.
        naming("absolute-and-missing", "/nowhere/disk.raw").mentioning("--allow-path"),
        naming("through-the-parent-folder", "sub/../../outside.raw") { try $0.run("mkdir", "sub") },
        naming("link-to-outside", "link") { try $0.run("ln", "-s", "/etc/passwd", "link") }.mentioning("--allow-path"),
        naming("folder-linked-to-outside", "etc/passwd") { try $0.run("ln", "-s", "/etc", "etc") }
            .mentioning("--allow-path"),
        naming("not-of-its-format", "base.qcow2", format: "qcow2") { try $0.rawFile("base.qcow2", mib) },
        .files("chain-of-300") { builder in
            try builder.create("1M", as: "000.qcow2")
            try builder.overlay("001.qcow2", "000.qcow2", size: "1M")
            let layer = try Patcher(builder.path("001.qcow2"))
            for depth in 2...300 {
                var copy = try Patcher(builder.path("001.qcow2"))
                copy.put(Array(String(format: "%03d.qcow2", depth - 1).utf8), at: Int(layer[.backingOffset]))
                let name = depth == 300 ? "image.qcow2" : String(format: "%03d.qcow2", depth)
                try copy.bytes.write(to: URL(filePath: builder.path(name)))
            }
        }.onlyData,
    ]

    /// Renames the data file inside the image; up to 16 letters fit where "disk.data" was, so that nothing moves.
    private static func dataFile(
        _ name: String, _ file: String, _ arrange: @escaping @Sendable (ImageBuilder) throws -> Void = { _ in }
    )
        -> Malformed
    {
        .files("data-file-\(name)", .dataFile) { builder in
            try builder.patch { patcher in
                guard let place = patcher.data(ofExtension: 0x4441_5441) else { return }
                patcher.put([UInt8](repeating: 0, count: 16), at: place.lowerBound)
                patcher.put(Array(file.utf8), at: place.lowerBound)
                patcher.put(UInt64(file.utf8.count), at: place.lowerBound - 4, width: 4)
            }
            try arrange(builder)
        }.onlyData
    }

    static let dataFiles: [Malformed] = [
        dataFile("missing", "nowhere.d"),
        dataFile("self", "link.data") { try $0.run("ln", "image.qcow2", "link.data") },
        dataFile("fifo", "pipe.data") { try $0.run("mkfifo", "pipe.data") },
        dataFile("folder", "fold.data") { try $0.run("mkdir", "fold.data") },
        dataFile("character-device", "zero.data") { try $0.run("mknod", "zero.data", "c", "1", "5") },
        dataFile("absolute", "/etc/passwd").mentioning("--allow-path"),
        dataFile("absolute-and-missing", "/nowhere/data").mentioning("--allow-path"),
        dataFile("in-the-parent-folder", "../outside.data") { try $0.run("touch", "../outside.data") }
            .mentioning("--allow-path"),
        dataFile("with-a-nul", "disk\0data").failing(.convert, .compare),
        dataFile("json", "json:{}ab"),
        dataFile("nbd", "nbd:a:123"),
        dataFile("empty-name", ""),
        .files("data-file-too-short", .dataFile) { try $0.run("truncate", "-s", "128k", "disk.data") }
            .losing(131_072..<262_144, mib..<mib + 262_144),
    ]

    static let strangeFiles: [Malformed] = [
        .files("image-missing") { _ in },
        .files("image-is-a-fifo") { try $0.run("mkfifo", "image.qcow2") },
        .files("image-is-a-folder") { try $0.run("mkdir", "image.qcow2") },
        .files("image-is-a-character-device") { try $0.run("mknod", "image.qcow2", "c", "1", "5") },
        .files("image-is-a-socket") { try makeSocket($0.path("image.qcow2")) },
        .files("image-is-empty") { try $0.run("touch", "image.qcow2") },
        .files("image-is-text") { builder in
            try Data("This is no image, but a letter to one.\n".utf8).write(
                to: URL(filePath: builder.path("image.qcow2")))
        },
        .files("image-is-three-bytes") { builder in
            try Data("QFI".utf8).write(to: URL(filePath: builder.path("image.qcow2")))
        },
        .files("image-is-a-magic-alone") { builder in
            try Data([0x51, 0x46, 0x49, 0xfb]).write(to: URL(filePath: builder.path("image.qcow2")))
        },
        .files("image-is-noise") { builder in
            var noise = SeededRandom(3)
            try noise.bytes(100_000).write(to: URL(filePath: builder.path("image.qcow2")))
        },
        .bytes("tiny-file-of-huge-size") { patcher in
            patcher[.size] = 1 << 61
            patcher[.l1Size] = 4_194_304
            patcher.truncate(to: 112)
        },
    ]

    static let truncated: [Malformed] = [
        .bytes("cut-inside-the-header") { $0.truncate(to: 60) },
        .bytes("cut-after-the-version-2-fields") { $0.truncate(to: 72) },
        .bytes("cut-inside-the-extensions") { $0.truncate(to: 140) }.failing(.convert, .compare, .extents),
        .bytes("cut-after-the-header") { $0.truncate(to: 65536) }.failing(.convert, .compare, .extents),
        .bytes("cut-before-the-l1-table") { $0.truncate(to: Int($0[.l1Offset])) }.failing(.convert, .compare, .extents),
        .bytes("cut-inside-the-l1-table", .small) { $0.truncate(to: Int($0[.l1Offset]) + 20) }
            .failing(.convert, .compare, .extents),
        .bytes("cut-before-the-l2-table") { $0.truncate(to: $0.l2Table(0)) }.losing(0..<2 * mib),
        .bytes("cut-inside-the-l2-table") { $0.truncate(to: $0.l2Table(0) + 8 * 5) }.onlyData,
        .bytes("cut-before-the-last-data") { $0.truncate(to: $0.data(mib)) }.losing(mib..<mib + 262_144),
        .bytes("cut-inside-the-last-data") { $0.truncate(to: $0.data(mib) + 196_608 + 1000) }.onlyData,
        .bytes("cut-one-byte-before-the-end") { $0.truncate(to: $0.bytes.count - 1) }.onlyData,
        .bytes("cut-inside-compressed-data", .zlib) { $0.truncate(to: $0.bytes.count / 2) }.onlyData,
    ]

    private static func makeSocket(_ path: String) throws {
        guard mknod(path, S_IFSOCK | 0o600, 0) == 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
    }
}

extension ImageBuilder {
    /// An overlay whose backing file qemu-img does not look at.
    fileprivate func overlay(_ name: String, _ backing: String, format: String = "qcow2", size: String = "2M") throws {
        // By another name first: an overlay of itself is refused, as it should be.
        try run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", backing, "new", size)
        try run("mv", "new", name)
    }
}
