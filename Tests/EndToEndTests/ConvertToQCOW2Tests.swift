// An image that `convert` writes must hold the guest's bytes and nothing wrong: the peer compares, checks and
// describes what comes out of every combination of options.

import Foundation
import TestKit
import Testing

@Suite("Convert to qcow2 agrees with qemu-img", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ConvertToQCOW2Tests {
    static let plain =
        ["512", "1k", "4k", "64k", "2M"].flatMap { ["cluster_size=\($0)", "cluster_size=\($0),compat=0.10"] }
        + ["512", "64k", "2M"].flatMap { cluster in
            [1, 2, 8, 64].map { "cluster_size=\(cluster),refcount_bits=\($0)" }
        } + ["extended_l2=on", "extended_l2=on,cluster_size=16k", "lazy_refcounts=on"]
    static let zstd = ["512", "64k", "2M"].map { "cluster_size=\($0),compression_type=zstd" }
    static let placed =
        ["metadata", "falloc", "full"].flatMap { mode in
            ["", "extended_l2=on,", "cluster_size=512,", "data_file=data,"].map { "\($0)preallocation=\(mode)" }
        } + ["data_file=data", "data_file=data,cluster_size=512", "data_file=data,data_file_raw=on"]

    /// Converts `source` with both programs, and holds ours against the source and against theirs.
    private func convert(_ source: String, _ format: String, _ options: [String], in folder: String) throws {
        let builder = ImageBuilder(folder: folder)
        let arguments = ["convert", "-f", format, "-O", "qcow2"] + options + [source, "image"]
        try Command(["qemu-img"] + arguments, in: folder).succeed()
        let their = try qemuImg("info", "--output=json", "image", in: folder).json()
        try builder.run("rm", "-f", "image", "data")
        let ours = try qblk(arguments, in: folder)
        try #require(ours.exit == 0 && ours.errors.isEmpty, "\(ours)")
        try builder.img("check", "-q", "image")
        try builder.img("compare", "-f", format, "-F", "qcow2", source, "image")
        let our = try qemuImg("info", "--output=json", "image", in: folder).json()
        let keys = ["virtual-size", "cluster-size", "format-specific", "backing-filename", "backing-filename-format"]
        for key in keys { #expect(our[key] == their[key]) }
    }

    @Test("plain and compressed clusters", arguments: plain, [[], ["-c"], ["-c", "-m", "1"]])
    func clusters(options: String, rest: [String]) throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).rawFile("raw", 5_000_100)
            try convert("raw", "raw", ["-o", options] + rest, in: folder)
        }
    }

    @Test("zstd, preallocation and data files", arguments: zstd.map { ["-c", "-o", $0] } + placed.map { ["-o", $0] })
    func kinds(options: [String]) throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).rawFile("raw", 3_000_100)
            try convert("raw", "raw", options, in: folder)
        }
    }

    @Test("-S", arguments: ["0", "4k", "64k", "1M"])
    func sparse(size: String) throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).rawFile("raw", 3_000_100)
            try convert("raw", "raw", ["-S", size], in: folder)
        }
    }

    @Test("every image that can be read", arguments: ImageTrait.all.filter { !$0.huge })
    func traits(trait: ImageTrait) throws {
        let image = try trait.made()
        let reference = try image.reference()
        try Scratch.withFolder { folder in
            let options = ["-O", "qcow2"] + (trait.format == "raw" ? ["-f", "raw"] : [])
            let outcome = try image.qblk("convert", options, rest: ["\(folder)/image"])
            try #require(outcome.exit == 0, "\(outcome)")
            let builder = ImageBuilder(folder: folder)
            try builder.img("check", "-q", "image")
            try builder.img("compare", "-f", "qcow2", "-F", "raw", "image", reference)
        }
    }

    @Test("empty and sparse disks", arguments: ["0", "1T"], [[], ["-c"]])
    func sparseDisk(size: String, rest: [String]) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create(size, as: "source")
            if size != "0" {
                try builder.io(["write -P 1 600G 1M", "write -P 2 1099511627264 512"], on: "source")
            }
            try convert("source", "qcow2", rest, in: folder)
        }
    }

    @Test(
        "-B writes what differs from the backing file", arguments: [[], ["-c"]],
        ["cluster_size=64k", "cluster_size=512", "extended_l2=on", "compat=0.10", "cluster_size=2M"])
    func backing(rest: [String], options: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("base.raw", 9_000_000)
            try builder.img("convert", "-f", "raw", "-O", "qcow2", "base.raw", "base")
            try builder.create("12M", backing: "qcow2:base", as: "top")
            try builder.io(["write -P 9 1234k 5k", "write -z 3M 700k", "write -P 8 11M 64k"], on: "top")
            try convert("top", "qcow2", ["-o", options, "-B", "base", "-F", "qcow2"] + rest, in: folder)
            // Large clusters take much along with little.
            #expect(try fileSize("\(folder)/image") < (options == "cluster_size=2M" ? 22 : 4) << 20)
        }
    }

    static let wrong: [[String]] = [
        ["-n", "-c"], ["-c", "-o", "preallocation=metadata"], ["-c", "-o", "data_file=data"], ["-o", "size=1M"],
        ["-o", "cluster_size=3"], ["-o", "bogus=1"], ["-B", "raw"], ["-B", "none", "-F", "raw"],
        ["-B", "image", "-F", "qcow2"],
    ]

    @Test("what cannot be converted is one line, exit 1, and harms nothing", arguments: wrong)
    func refused(options: [String]) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("raw", 100_000)
            try builder.create("1M", as: "image")
            let before = try Data(contentsOf: URL(filePath: builder.path("image")))
            let outcome = try qblk(["convert", "-f", "raw", "-O", "qcow2"] + options + ["raw", "image"], in: folder)
            #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.hasPrefix("qblk: "), "\(outcome)")
            #expect(try Data(contentsOf: URL(filePath: builder.path("image"))) == before)
        }
    }
}
