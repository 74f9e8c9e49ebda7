// An image that `create` makes is used by other programs for years. For every option, the peer finds it clean, empty,
// and made as its own would be.

import Foundation
import TestKit
import Testing

@Suite("Create agrees with qemu-img", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct CreateTests {
    struct Case: Sendable, CustomStringConvertible {
        let size: String
        let options: String
        let rest: [String]
        init(_ size: String, _ options: String = "", _ rest: [String] = []) {
            (self.size, self.options, self.rest) = (size, options, rest)
        }
        var description: String { "\(size) \(options) \(rest.joined(separator: " "))" }
        func arguments(_ name: String) -> [String] {
            ["create", "-f", "qcow2"] + (options.isEmpty ? [] : ["-o", options]) + rest + [name, size]
        }
    }

    static let clusters = ["512", "1k", "4k", "64k", "2M"].flatMap { cluster in
        ["off", "metadata", "falloc", "full"].flatMap { mode in
            ["0", "1000", "3333333"].map { Case($0, "cluster_size=\(cluster),preallocation=\(mode)") }
        }
    }
    static let widths = [1, 2, 4, 8, 32, 64].flatMap { bits in
        ["off", "metadata"].flatMap { mode in
            ["512", "64k"].map { Case("5M", "cluster_size=\($0),refcount_bits=\(bits),preallocation=\(mode)") }
        }
    }
    static let kinds = ["off", "metadata", "falloc", "full"].flatMap { mode in
        [
            Case("5M", "extended_l2=on,preallocation=\(mode)"),
            Case("123456", "extended_l2=on,cluster_size=16k,preallocation=\(mode)"),
            Case("5M", "data_file=data,preallocation=\(mode)"),
            Case("5M", "data_file=data,data_file_raw=on,preallocation=\(mode)"),
            Case("5M", "compat=0.10,preallocation=\(mode)"),
        ]
    }
    static let others = [
        Case("5M"), Case("1T"), Case("1T", "preallocation=metadata"), Case("100G", "cluster_size=512"),
        Case("1.5G", "lazy_refcounts"), Case("5M", "compat=v3,compression_type=zstd"),
        Case("5M", "", ["-b", "base.qcow2", "-F", "qcow2"]),
        Case("5M", "compat=0.10", ["-b", "base.qcow2", "-F", "qcow2"]),
        Case("5M", "cluster_size=512", ["-b", "missing", "-F", "raw", "-u"]),
        Case("5M", "extended_l2=on,preallocation=metadata", ["-b", "base.qcow2", "-F", "qcow2"]),
        Case("5M", "backing_file=base.qcow2,backing_fmt=qcow2,data_file=data"),
    ]

    @Test("the image is clean, empty and described as qemu-img's", arguments: clusters + widths + kinds + others)
    func same(one: Case) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("3M", as: "base.qcow2")
            try builder.io(["write -P 7 1M 64k"], on: "base.qcow2")
            let ours = try qblk(one.arguments("image"), in: folder)
            try #require(ours.exit == 0 && ours.errors.isEmpty, "\(ours)")
            if !one.rest.contains("-u") { try builder.img("check", "-f", "qcow2", "image") }
            let our = try qemuImg("info", "-f", "qcow2", "--output=json", "image", in: folder).json()
            try builder.run("cp", "--sparse=always", "image", "ours")
            try builder.run("rm", "-f", "image", "data")
            let theirs = try Command(["qemu-img"] + one.arguments("image"), in: folder).succeed()
            #expect(ours.output == theirs.output)
            let their = try qemuImg("info", "-f", "qcow2", "--output=json", "image", in: folder).json()
            #expect(Self.described(our) == Self.described(their))
            if !one.rest.contains("-u") { try builder.img("compare", "-f", "qcow2", "-F", "qcow2", "ours", "image") }
        }
    }

    /// What info says, without what differs by name or by where bytes happen to lie.
    private static func described(_ info: JSONValue) -> [String: JSONValue] {
        (info.object ?? [:]).filter { !["actual-size", "children", "filename"].contains($0.key) }
    }

    @Test("the size comes from the backing file, rounded up to sectors")
    func sizeOfBacking() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("base", 10_000)
            let outcome = try qblk("create", "-f", "qcow2", "-b", "base", "-F", "raw", "image", in: folder)
            try #require(outcome.exit == 0, "\(outcome)")
            let info = try qemuImg("info", "--output=json", "image", in: folder).json()
            #expect(info["virtual-size"] == .integer(10_240))
            try builder.img("compare", "-f", "qcow2", "-F", "raw", "image", "base")
        }
    }

    @Test("a backing file counts from the image's folder")
    func folderOfBacking() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("mkdir", "sub")
            try builder.create("3M", as: "sub/base.qcow2")
            let outcome = try qblk(
                "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "sub/image", in: folder)
            #expect(outcome.exit == 0 && outcome.output.isEmpty, "\(outcome)")
            try builder.img("check", "sub/image")
        }
    }

    @Test("a raw image is a file of zeros", arguments: ["off", "falloc", "full"])
    func raw(mode: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("image", 50_000)
            let outcome = try qblk("create", "-o", "preallocation=\(mode)", "image", "1000000", in: folder)
            try #require(outcome.exit == 0, "\(outcome)")
            try builder.img("create", "-f", "raw", "theirs", "1000000")
            #expect(try differenceOfFiles("\(folder)/image", "\(folder)/theirs") == nil)
        }
    }

    @Test("a file that another process writes to is left alone")
    func locked() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("3M", as: "image")
            let before = try Data(contentsOf: URL(filePath: builder.path("image")))
            var user = try Command(["qemu-io", "-f", "qcow2", "-c", "sleep 60000", "image"], in: folder).spawn()
            defer { user.end() }
            let end = Date(timeIntervalSinceNow: 20)
            while try qemuImg("info", "image", in: folder).exit == 0, Date() < end { usleep(20_000) }
            let outcome = try qblk("create", "-f", "qcow2", "image", "1M", in: folder)
            #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.contains("lock"), "\(outcome)")
            #expect(try Data(contentsOf: URL(filePath: builder.path("image"))) == before)
        }
    }

    static let wrong: [[String]] = [
        ["image"], ["image", "abc"], ["image", "9E"], ["image", "3E"], ["-o", "cluster_size=300", "image", "1M"],
        ["-o", "cluster_size=4M", "image", "1M"], ["-o", "refcount_bits=3", "image", "1M"],
        ["-o", "refcount_bits=128", "image", "1M"], ["-o", "compat=0.10,refcount_bits=8", "image", "1M"],
        ["-o", "compat=0.10,lazy_refcounts=on", "image", "1M"], ["-o", "compat=0.10,extended_l2=on", "image", "1M"],
        ["-o", "compat=0.10,compression_type=zstd", "image", "1M"], ["-o", "compat=0.10,data_file=d", "image", "1M"],
        ["-o", "extended_l2=on,cluster_size=8k", "image", "1M"], ["-o", "compat=2", "image", "1M"],
        ["-o", "bogus=1", "image", "1M"], ["-o", "preallocation=some", "image", "1M"],
        ["-o", "lazy_refcounts=maybe", "image", "1M"], ["-o", "size=3M", "image", "2M"],
        ["-o", "data_file_raw=on", "image", "1M"], ["-b", "base", "image"], ["-b", "none", "-F", "qcow2", "image"],
        ["-b", "none", "-F", "qcow2", "-u", "image"], ["-b", "base", "-F", "foo", "image"],
        ["-F", "raw", "image", "1M"],
        ["-b", "base", "-F", "qcow2", "-o", "preallocation=metadata", "image"],
        ["-b", "base", "-F", "qcow2", "-o", "data_file=d,data_file_raw=on", "image"],
        ["-b", "base", "-F", "qcow2", "-o", "cluster_size=512", "base"], ["none/image", "1M"], ["image", "1M", "2M"],
    ]

    @Test("what cannot be made is one line, exit 1, and no file", arguments: wrong)
    func refused(arguments: [String]) throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("3M", as: "base")
            let before = try Data(contentsOf: URL(filePath: "\(folder)/base"))
            let outcome = try qblk(["create", "-f", "qcow2"] + arguments, in: folder)
            #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.hasPrefix("qblk: "), "\(outcome)")
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["base"])
            #expect(try Data(contentsOf: URL(filePath: "\(folder)/base")) == before)
        }
    }

    @Test("-o help lists the options")
    func help() throws {
        let outcome = try qblk("create", "-f", "qcow2", "-o", "help")
        #expect(outcome.exit == 0 && outcome.errors.isEmpty, "\(outcome)")
        for name in ["cluster_size", "preallocation", "data_file_raw"] {
            #expect(outcome.output.contains("  \(name)=<"))
        }
    }
}
