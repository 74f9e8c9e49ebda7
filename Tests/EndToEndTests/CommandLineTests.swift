// Scripts that were written for qemu-img change one word. Options, sizes and option lists mean here what they mean there,
// and what is wrong with a command line is said in one line.

import Foundation
import TestKit
import Testing

@Suite("The command line is qemu-img's", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct CommandLineTests {
    private func words(_ line: String) -> [String] { line.split(separator: " ").map(String.init) }

    /// Makes a.qcow2 and b.raw with the same disk, and the damaged image c.qcow2.
    private func withImages(_ body: (String) throws -> Void) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "a.qcow2")
            try builder.io(["write -P 5 100k 300k"], on: "a.qcow2")
            try builder.img("convert", "-O", "raw", "a.qcow2", "b.raw")
            try body(folder)
        }
    }

    /// Command lines that qemu-img 11.1 takes, joined or in long words.
    static let lines = [
        "info -fqcow2 a.qcow2", "info -U --format=qcow2 --cache none --output json a.qcow2", "info -tnone a.qcow2",
        "check -fqcow2 -Tnone a.qcow2", "check -qfqcow2 a.qcow2", "check -rall a.qcow2", "check -qrleaks a.qcow2",
        "check --format qcow2 --cache none --repair leaks --quiet a.qcow2", "check --force-share a.qcow2",
        "compare -sUfqcow2 -Fqcow2 a.qcow2 a.qcow2", "compare -fqcow2 -Fraw -Tnone -q a.qcow2 b.raw",
        "compare --a-format qcow2 --b-format raw --cache none --quiet a.qcow2 b.raw",
        "compare --strict --force-share --progress a.qcow2 a.qcow2",
        "convert -fqcow2 -Oraw -m4 -S0 -tnone -Tnone a.qcow2 out", "convert -cpOqcow2 -ocluster_size=4k a.qcow2 out",
        "convert -qWOqcow2 -ba.qcow2 -Fqcow2 a.qcow2 out", "convert -UCWr1G -Oraw a.qcow2 out",
        "convert --source-format qcow2 --target-format qcow2 --target-format-options cluster_size=4k --compress a.qcow2 out",
        "convert --source-cache none --target-cache none --sparse-size 8k --parallel 3 --oob-writes a.qcow2 out",
        "convert --backing a.qcow2 --backing-format qcow2 --target-format qcow2 --quiet a.qcow2 out",
        "convert --rate-limit 1G --copy-range-offloading --salvage --force-share --progress a.qcow2 out",
        "convert --no-create --target-format raw a.qcow2 b.raw", "create -fqcow2 -ocluster_size=4k out 1M",
        "create -qfqcow2 -ba.qcow2 -Bqcow2 out", "create -ufqcow2 -bnone -Fraw out 1M",
        "create --format qcow2 --backing a.qcow2 --backing-format qcow2 --quiet out",
        "create --format qcow2 --options cluster_size=4k --backing-unsafe --backing none --backing-format raw out 1M",
        "resize -qfqcow2 a.qcow2 +1M", "resize --format raw --preallocation falloc --quiet b.raw 2M",
        "resize --format qcow2 --shrink a.qcow2 -512k", "extents -fqcow2 -s100k -l4k a.qcow2",
        "extents -U --format qcow2 --start-offset 0 --max-length 64k --output=json a.qcow2",
    ]

    @Test("joined and long options are taken", arguments: lines)
    func options(line: String) throws {
        try withImages { folder in
            let outcome = try qblk(words(line), in: folder)
            #expect(outcome.exit == 0 && outcome.errors.isEmpty, "\(outcome)")
        }
    }

    @Test("a joined option does what the option and its value do")
    func joined() throws {
        try withImages { folder in
            #expect(
                try qblk(
                    "convert", "-qcOqcow2", "-ocluster_size=4k,compression_type=zstd", "a.qcow2", "out", in: folder
                ).exit == 0)
            let info = try qemuImg("info", "--output=json", "out", in: folder).json()
            #expect(info["cluster-size"]?.integer == 4096)
            #expect(info.at("format-specific.data.compression-type")?.string == "zstd")
            #expect(
                try qblk("extents", "-l4k", "a.qcow2", in: folder).output
                    == qblk("extents", "-l", "4k", "a.qcow2", in: folder).output)
        }
    }

    @Test(
        "what qemu-img has and this program has not is refused by name",
        arguments: [
            "info --image-opts driver=qcow2,file.filename=a.qcow2", "info --limits a.qcow2",
            "convert --bitmaps a.qcow2 out",
            "convert --target-image-opts a.qcow2 out", "check --object secret,id=s,data=x a.qcow2",
        ])
    func refused(line: String) throws {
        try withImages { folder in
            let outcome = try qblk(words(line), in: folder)
            #expect(
                outcome.exit == 1 && outcome.errorLines.count == 1 && !outcome.errors.contains("Unknown"), "\(outcome)")
        }
    }

    @Test(
        "a mistyped verb is told the one that was meant",
        arguments: [
            ("convrt", "convert"), ("chekc", "check"), ("inf", "info"), ("serv", "serve"), ("unmpa", "unmap"),
        ])
    func hint(typo: String, verb: String) throws {
        for words in [[typo, "x"], ["help", typo]] {
            let outcome = try qblk(words)
            #expect(outcome.exit == 1 && outcome.output.isEmpty && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.contains("did you mean `\(verb)`?"), "\(outcome)")
        }
    }

    @Test("a verb that is like none gets no hint, and help of it fails")
    func noHint() throws {
        for words in [["nosuch"], ["help", "nosuch"], ["snapshot"]] {
            let outcome = try qblk(words)
            #expect(
                outcome.exit == 1 && outcome.errors.contains("there is no verb") && !outcome.errors.contains("mean"),
                "\(outcome)")
        }
        #expect(try qblk("help", "info").exit == 0)
        #expect(try qblk("help").exit == 0)
    }

    @Test(
        "output that cannot be written is an error, of compare not 1",
        arguments: [
            "info a.qcow2", "info --json a.qcow2", "extents a.qcow2", "check a.qcow2", "create -f qcow2 out 1M",
            "resize a.qcow2 2M",
            "compare a.qcow2 b.raw", "compare a.qcow2 a.qcow2", "compare -p a.qcow2 c.raw",
            "compare --json a.qcow2 b.raw",
            "bench --seconds 0.1 a.qcow2", "doctor", "--help", "compare --help", "--version",
        ])
    func full(line: String) throws {
        try withImages { folder in
            try Command(["sh", "-c", "cp b.raw c.raw; printf x | dd of=c.raw conv=notrunc status=none"], in: folder)
                .succeed()
            for stream in ["/dev/full", "/dev/closed"] {
                let target = stream == "/dev/full" ? ">/dev/full" : ">&-"
                let outcome = try Command(["sh", "-c", "exec '\(Tools.qblk)' \(line) \(target)"], in: folder).run()
                #expect((outcome.exit ?? 0) >= (line.hasPrefix("compare") ? 2 : 1), "\(target) \(outcome)")
                #expect(outcome.errors.contains("standard output cannot be written"), "\(outcome)")
            }
        }
    }

    @Test(
        "with standard output closed, nothing is written into the files that are opened",
        arguments: [
            "convert -p -O raw a.qcow2 out", "convert -p -O raw -n a.qcow2 out", "compare -p a.qcow2 out",
        ])
    func closed(line: String) throws {
        try withImages { folder in
            try Command(["cp", "b.raw", "out"], in: folder).succeed()
            _ = try Command(["sh", "-c", "exec '\(Tools.qblk)' \(line) <&- >&- 2>&-"], in: folder).run()
            #expect(try differenceOfFiles("\(folder)/b.raw", "\(folder)/out") == nil)
            try Command(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", "a.qcow2", "b.raw"], in: folder).succeed()
        }
    }

    static let sizes = [
        "1024.0", "1024.", ".5k", "0.5k", "1.5", "1.5k", "1.5b", "1.0b", "1e3", "0x1000", "0x10k", "0X10", "+1k", "-1k",
        "1kb", "1KiB", "010", "1b", "1B", "0.1k", "0.0", "00", "1.1.1k", "k", "8E", "18446744073709551616", "inf",
        "nan",
        "0x1p3", "1_0", "1d", "1.5e3", "512", "513", "0.9999999999999999k", ".k", ".", "1.", "1 k",
    ]

    @Test("sizes are read as qemu-img reads them", arguments: sizes)
    func size(text: String) throws {
        try Scratch.withFolder { folder in
            let ours = try qblk("create", "-q", "-f", "raw", "ours", "--", text, in: folder)
            let theirs = try qemuImg("create", "-q", "-f", "raw", "theirs", "--", text, in: folder)
            #expect(ours.exit == theirs.exit, "\(ours) \(theirs)")
            if theirs.exit == 0 { #expect(try fileSize("\(folder)/ours") == fileSize("\(folder)/theirs")) }
        }
    }

    static let lists = [
        ",help", "help", "help,", ",,help", "", ",", "cluster_size=4k,", ",cluster_size=4k", "cluster_size=4k,,help",
        "cluster_size=4k,help", "cluster_size=4k,?", "?", "cluster_size=4k,cluster_size=8k", "nolazy_refcounts",
        "lazy_refcounts", "noextended_l2,lazy_refcounts", "nosuch", "cluster_size=4k,,", "data_file=a,,b",
    ]

    @Test("option lists are read as qemu-img reads them", arguments: lists)
    func list(text: String) throws {
        try Scratch.withFolder { folder in
            let ours = try qblk("create", "-f", "qcow2", "-o", text, "image", "1M", in: folder)
            let theirs = try qemuImg("create", "-f", "qcow2", "-o", text, "image", "1M", in: folder)
            #expect(ours.exit == theirs.exit, "\(ours) \(theirs)")
            if !theirs.output.hasPrefix("Supported") { #expect(ours.output == theirs.output) }
        }
    }

    @Test("check of an empty image prints what qemu-img prints", arguments: ["0", "1M"])
    func emptyCheck(size: String) throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create(size, as: "a.qcow2")
            #expect(try qblk("check", "a.qcow2", in: folder).output == qemuImg("check", "a.qcow2", in: folder).output)
        }
    }
}
