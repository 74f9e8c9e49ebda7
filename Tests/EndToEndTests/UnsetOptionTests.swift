// What a script passes on from an unset variable, and what an image cannot have kept: refused before anything is written.

import Foundation
import TestKit
import Testing

@Suite("Refused before anything is written", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct UnsetOptionTests {
    static let empty: [[String]] = [
        ["create", "-f", "qcow2", "-b", "", "-F", "raw", "out", "1M"],
        ["create", "-f", "qcow2", "-b", "", "out", "1M"],
        ["create", "-f", "qcow2", "-o", "backing_file=", "out", "1M"],
        ["create", "-f", "qcow2", "-o", "backing_file=,size=1M", "out"],
        ["create", "-f", "qcow2", "-o", "backing_file=base,backing_fmt=", "out", "1M"],
        ["create", "-f", "qcow2", "-o", "data_file=", "out", "1M"],
        ["convert", "-f", "raw", "-O", "qcow2", "-B", "", "-F", "raw", "base", "out"],
        ["convert", "-f", "raw", "-O", "qcow2", "-o", "backing_file=", "base", "out"],
        ["convert", "-l", "", "image", "out"], ["convert", "--snapshot=", "image", "out"],
        ["convert", "--allow-path", "", "image", "out"], ["convert", "--allow-path=", "image", "out"],
        ["map", "--name", "", "image"], ["map", "--name=", "image"], ["info", "--allow-path", "", "image"],
        ["extents", "--snapshot", "", "image"], ["compare", "", "image"],
    ]

    @Test("an empty value is never taken for none", arguments: empty)
    func emptyValue(arguments: [String]) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("truncate", "-s", "1M", "base")
            try builder.create("1M", as: "image")
            let outcome = try qblk(arguments, in: folder)
            #expect(outcome.exit == (arguments[0] == "compare" ? 2 : 1), "\(outcome)")
            #expect(outcome.errors.contains("empty"), "\(outcome)")
            #expect(!FileManager.default.fileExists(atPath: builder.path("out")))
        }
    }

    @Test("an image with an enabled bitmap is not written, one with a disabled bitmap is")
    func bitmaps() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "image")
            try builder.img("bitmap", "--add", "image", "nightly")
            try builder.rawFile("raw", 1 << 20)
            let before = try Data(contentsOf: URL(filePath: builder.path("image")))
            let refused = try qblk("convert", "-n", "-f", "raw", "-O", "qcow2", "raw", "image", in: folder)
            #expect(refused.exit == 1 && refused.errors.contains("nightly"), "\(refused)")
            #expect(refused.errors.contains("qemu-img bitmap --disable"), "\(refused)")
            #expect(try Data(contentsOf: URL(filePath: builder.path("image"))) == before)
            try builder.img("bitmap", "--disable", "image", "nightly")
            #expect(try qblk("convert", "-n", "-f", "raw", "-O", "qcow2", "raw", "image", in: folder).exit == 0)
            let info = try qemuImg("info", "--output=json", "image", in: folder)
            #expect(info.output.contains("nightly") && !info.output.contains("in-use"), "\(info)")
            try builder.img("check", "image")
        }
    }

    @Test(
        "a truncated image is not written, for its file would grow over what is lost; leaks behind its end are no loss")
    func truncatedImage() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("4M", as: "image")
            try builder.rawFile("raw", 1 << 20)
            try builder.io(["write -P 7 0 4M"], on: "image")
            let length = try fileSize(builder.path("image"))
            try builder.run("cp", "image", "leaky")
            try builder.run("truncate", "-s", "\(length - (1 << 20))", "image")
            let refused = try qblk("convert", "-n", "-f", "raw", "-O", "qcow2", "raw", "image", in: folder)
            #expect(refused.exit == 1 && refused.errors.contains("truncated"), "\(refused)")
            #expect(try fileSize(builder.path("image")) == length - (1 << 20))
            try builder.patch("leaky") { patcher in
                for cluster in length / 65536 + 2..<length / 65536 + 5 { patcher.setRefcount(1, of: cluster) }
            }
            #expect(try qblk("convert", "-n", "-f", "raw", "-O", "qcow2", "raw", "leaky", in: folder).exit == 0)
        }
    }

    @Test("under a limit of the file's size what fits is written, and what does not is an error")
    func fileSizeLimit() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("raw", 4 << 20)
            for (kilobytes, code) in [(8192, Int32(0)), (2048, 1)] {
                try builder.create("64M", as: "image")
                let script = "ulimit -f \(kilobytes); exec '\(Tools.qblk)' convert -n -f raw -O qcow2 raw image"
                let outcome = try Command(["bash", "-c", script], in: folder).run()
                #expect(outcome.exit == code, "\(outcome)")
                try builder.img("check", "image")
                try builder.run("rm", "image")
            }
        }
    }

    @Test(
        "a header extension that runs past the first cluster is refused by name, as by qemu-img",
        arguments: [UInt32.max, 65536, 65536 - 112 - 8 + 1] as [UInt32])
    func longExtension(length: UInt32) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "image")
            try builder.patch("image") { $0.insertExtension(0x1234_5678, [], length: length) }
            #expect(try qemuImg("check", "-f", "qcow2", "image", in: folder).exit == 1)
            for verb in [["check"], ["check", "-r", "all"], ["info"], ["extents"]] {
                let outcome = try qblk(verb + ["-f", "qcow2", "image"], in: folder)
                #expect(outcome.exit == 1 && outcome.errors.contains("header extension 0x12345678"), "\(outcome)")
            }
        }
    }
}
