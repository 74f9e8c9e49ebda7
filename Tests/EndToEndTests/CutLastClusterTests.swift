// A file that was cut inside its last cluster before it is opened: what is gone must stay an error. Were the file to grow, the
// lost bytes would read as zeros, and nothing would tell them from data.

import Foundation
import TestKit
import Testing

@Suite("A file that ends inside a cluster in use", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct CutLastClusterTests {
    struct Case: Sendable, CustomStringConvertible {
        let options: String
        /// Bytes that the file loses.
        let cut: Int
        var description: String { "\(options), cut by \(cut)" }
    }
    static let cases = ["cluster_size=64k", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "compat=0.10"]
        .flatMap {
            options in [1, 100].map { Case(options: options, cut: $0) }
        }

    /// Everything that writes to the image.
    static let writers = [
        ["resize", "-f", "qcow2", "image", "+10M"], ["convert", "-n", "-f", "raw", "-O", "qcow2", "source", "image"],
        ["bench", "--destroy", "-f", "qcow2", "--rw", "randwrite", "--requests", "1", "image"],
    ]

    private func refuses(_ folder: String, _ what: String) throws {
        let before = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/image"))
        for arguments in Self.writers {
            let result = try qblk(arguments, in: folder)
            #expect(result.exit == 1, "\(what): \(result)")
            #expect(result.errors.contains("truncated"), "\(what): \(result)")
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: "\(folder)/image")) == before, "\(what)")
        let check = try qblk("check", "-f", "qcow2", "image", in: folder)
        #expect(check.exit == 2, "\(what): \(check)")
    }

    @Test("is not written to, and does not grow", arguments: cases)
    func dataIsLost(one: Case) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("source", 4 << 20)
            try builder.create("4M", one.options, as: "image")
            // The last cluster of the file holds data.
            try builder.io(["write -P 5 0 4M"], on: "image")
            let length = try fileSize(builder.path("image"))
            try builder.run("truncate", "-s", "\(length - one.cut)", "image")
            try refuses(folder, "\(one)")
        }
    }

    @Test("is not written to when it is a snapshot's table")
    func snapshotTableIsCut() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("source", 4 << 20)
            try builder.create("4M", as: "image")
            try builder.img("snapshot", "-c", "one", "image")
            let length = try fileSize(builder.path("image"))
            try builder.run("truncate", "-s", "\(length - 1)", "image")
            let before = try Data(contentsOf: URL(fileURLWithPath: builder.path("image")))
            for arguments in Self.writers {
                let result = try qblk(arguments, in: folder)
                #expect(result.exit == 1 && result.errors.contains("snapshot table"), "\(result)")
            }
            #expect(try Data(contentsOf: URL(fileURLWithPath: builder.path("image"))) == before)
        }
    }

    @Test("is written to when the disk ends before the file", arguments: ["cluster_size=64k", "cluster_size=2M"])
    func theRestIsNotTheDisks(options: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1000448", options, as: "image")
            try builder.io(["write -P 5 0 1000448"], on: "image")
            // The last cluster has 16896 bytes of the disk, or all of it.
            let cluster = options.hasSuffix("2M") ? 2 << 20 : 65536
            let rest = cluster - 1_000_448 % cluster
            let length = try fileSize(builder.path("image"))
            try builder.run("truncate", "-s", "\(length - rest)", "image")
            #expect(try qblk("check", "-f", "qcow2", "image", in: folder).exit == 0)
            try builder.run("cp", "image", "shorter")
            #expect(try qblk("resize", "-f", "qcow2", "image", "+1M", in: folder).exit == 0)
            try builder.img("check", "image")
            try builder.io(["read -P 5 0 1000448", "read -P 0 1000448 1M"], on: "image")
            try builder.run("truncate", "-s", "\(length - rest - 1)", "shorter")
            #expect(try qblk("resize", "-f", "qcow2", "shorter", "+1M", in: folder).exit == 1)
        }
    }

    @Test("is written to when compressed data ends it")
    func compressedDataMayEndTheFile() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("raw", 4 << 20)
            try builder.img("convert", "-c", "-f", "raw", "-O", "qcow2", "raw", "image")
            #expect(try qblk("check", "-f", "qcow2", "image", in: folder).exit == 0)
            #expect(try qblk("resize", "-f", "qcow2", "image", "+1M", in: folder).exit == 0)
            try builder.img("check", "image")
            try builder.img("resize", "-q", "--shrink", "image", "4M")
            try builder.img("compare", "-f", "raw", "-F", "qcow2", "raw", "image")
        }
    }

    @Test("an external data file that ends before the mapping")
    func dataFileIsCut() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("4M", "data_file=data", as: "image")
            try builder.io(["write -P 5 1M 1M"], on: "image")
            // Nothing is mapped behind 2 MiB: the file need not have more.
            try builder.run("truncate", "-s", "2M", "data")
            #expect(try qblk("resize", "-f", "qcow2", "image", "5M", in: folder).exit == 0)
            try builder.run("truncate", "-s", "\((2 << 20) - 1)", "data")
            let result = try qblk("resize", "-f", "qcow2", "image", "+1M", in: folder)
            #expect(result.exit == 1 && result.errors.contains("data file is truncated"), "\(result)")
            #expect(try fileSize(builder.path("data")) == (2 << 20) - 1)
        }
    }
}
