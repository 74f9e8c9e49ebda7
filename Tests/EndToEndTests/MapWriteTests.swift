// What is written to a mapped device must be in the image: after a sync it is on the disk, after unmap QEMU reads it.
// File systems and fio write; qemu-img, e2fsck and cmp judge.

import Foundation
import TestKit
import Testing

extension MapTests {
    @Suite("Written through")
    struct Writing {
        /// How an image of `size` is made that is going to be written.
        struct Layout: Sendable, CustomStringConvertible {
            let description: String
            var file = "image.qcow2"
            var format = "qcow2"
            let make: @Sendable (ImageBuilder, String) throws -> Void

            init(
                _ description: String, file: String = "image.qcow2", format: String = "qcow2",
                make: @escaping @Sendable (ImageBuilder, String) throws -> Void
            ) {
                self.description = description
                self.file = file
                self.format = format
                self.make = make
            }
        }

        static let layouts = [
            Layout("64k clusters") { try $0.create($1) },
            Layout("2k clusters") { try $0.create($1, "cluster_size=2k") },
            Layout("extended L2") { try $0.create($1, "extended_l2=on,cluster_size=128k") },
            Layout("compressed backing file") { builder, size in
                try builder.rawFile("base.raw", 30 << 20)
                try builder.img("convert", "-c", "-f", "raw", "-O", "qcow2", "base.raw", "base.qcow2")
                try builder.create(size, backing: "qcow2:base.qcow2")
            },
            Layout("external data file") { try $0.create($1, "data_file=data.raw") },
            Layout("raw", file: "image.raw", format: "raw") { try $0.run("truncate", "-s", $1, "image.raw") },
        ]
        static let tools = ["mke2fs", "e2fsck", "mount", "fstrim", "blkdiscard"].filter { !Tools.have($0) }

        /// Makes, maps and unmaps; then QEMU must find the image whole and `expected` (made before the unmap) in it.
        private func withDisk(
            _ layout: Layout, _ size: String, _ body: (ImageBuilder, Mapping) throws -> Void
        ) throws {
            try Scratch.withFolder("write") { folder in
                let builder = ImageBuilder(folder: folder)
                try layout.make(builder, size)
                let mapping = try Mapping(
                    builder.path(layout.file), readOnly: false, options: ["-f", layout.format], in: folder)
                try body(builder, mapping)
                try builder.run(
                    "dd", "if=\(mapping.device)", "of=device.raw", "bs=1M", "iflag=direct", "conv=sparse", "status=none"
                )
                let outcome = try mapping.unmap()
                #expect(outcome.exit == 0, "\(outcome)")
                #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
                if layout.format == "qcow2" {
                    let check = try qemuImg("check", layout.file, in: folder)
                    #expect(check.exit == 0, "\(check)")
                }
                try builder.img("convert", "-f", layout.format, "-O", "raw", layout.file, "image-content.raw")
                #expect(try differenceOfFiles(builder.path("device.raw"), builder.path("image-content.raw")) == nil)
            }
        }

        @Test(
            "a file system can be made, filled, trimmed and checked", .enabled(if: tools.isEmpty, "needs \(tools)"),
            arguments: layouts)
        func fileSystem(layout: Layout) throws {
            try withDisk(layout, "96M") { builder, mapping in
                try builder.run("mke2fs", "-q", "-t", "ext4", mapping.device)
                try builder.run("mkdir", "tree", "mnt")
                for index in 0..<20 {
                    try builder.rawFile("tree/file\(index)", index * 70_000 + 1, seed: UInt64(index))
                }
                try builder.run("mount", "-t", "ext4", mapping.device, "mnt")
                do {
                    try builder.run("sh", "-c", "cp -r tree mnt/one && sync && cp -r tree mnt/two && rm -r mnt/one")
                    try builder.run("fstrim", "mnt")
                    try builder.run(
                        "sh", "-c", "cp -r tree mnt/three && diff -r tree mnt/two && diff -r tree mnt/three")
                } catch {
                    _ = try? Command(["umount", "mnt"], in: builder.folder).run()
                    throw error
                }
                try builder.run("umount", "mnt")
                let check = try Command(["e2fsck", "-fn", mapping.device]).run()
                #expect(check.exit == 0, "\(check)")
            }
        }

        @Test("fio finds what it wrote, with a flush now and then", .enabled(if: Tools.have("fio"), "needs fio"))
        func fio() throws {
            for layout in Self.layouts {
                try withDisk(layout, "64M") { builder, mapping in
                    let outcome = try Command(
                        [
                            "fio", "--name=w", "--filename=\(mapping.device)", "--rw=randwrite", "--bs=4k",
                            "--size=48M",
                            "--io_size=24M", "--direct=1", "--ioengine=libaio", "--iodepth=32", "--fsync=32",
                            "--verify=crc32c", "--verify_fatal=1", "--randrepeat=0",
                        ], in: builder.folder, deadline: 300
                    ).run()
                    #expect(outcome.exit == 0, "\(layout): \(outcome)")
                }
            }
        }

        @Test(
            "large, small and odd writes at once end up in order", .enabled(if: Tools.have("fio"), "needs fio"),
            arguments: layouts)
        func sizes(layout: Layout) throws {
            try withDisk(layout, "64M") { builder, mapping in
                let outcome = try Command(
                    [
                        "fio", "--name=w", "--filename=\(mapping.device)", "--rw=randwrite", "--bsrange=512-2M",
                        "--bs_unaligned=0", "--blockalign=512", "--size=64M", "--direct=1", "--ioengine=libaio",
                        "--iodepth=16", "--verify=crc32c", "--verify_fatal=1",
                    ], in: builder.folder, deadline: 300
                ).run()
                #expect(outcome.exit == 0, "\(outcome)")
            }
        }

        @Test(
            "discards and zeroes read as zeros and give space back", .enabled(if: tools.isEmpty, "needs \(tools)"),
            arguments: layouts, [[], ["-z"]])
        func discards(layout: Layout, options: [String]) throws {
            try withDisk(layout, "24M") { builder, mapping in
                try builder.rawFile("noise.raw", 24 << 20, seed: 5)
                try builder.run("dd", "if=noise.raw", "of=\(mapping.device)", "bs=1M", "oflag=direct", "status=none")
                try Command(["blkdiscard"] + options + ["-o", "1048576", "-l", "8388608", mapping.device]).succeed()
                try Command(["blkdiscard"] + options + ["-o", "20971520", "-l", "1536", mapping.device]).succeed()
                try builder.run("dd", "if=/dev/zero", "of=noise.raw", "bs=1M", "seek=1", "count=8", "conv=notrunc")
                try builder.run("dd", "if=/dev/zero", "of=noise.raw", "bs=512", "seek=40960", "count=3", "conv=notrunc")
                #expect(try differenceOfFiles(mapping.device, builder.path("noise.raw")) == nil)
                try Command(["blkdiscard"] + options + [mapping.device]).succeed()
                let zeros = try Command(["cmp", "-n", "\(24 << 20)", mapping.device, "/dev/zero"]).run()
                #expect(zeros.exit == 0, "\(zeros)")
            }
        }

        @Test("a full disk is those writes' error, and the map lives on")
        func full() throws {
            try Scratch.withFolder("full") { folder in
                let builder = ImageBuilder(folder: folder)
                try builder.run("mkdir", "small")
                try builder.run("mount", "-t", "tmpfs", "-o", "size=8M", "none", "small")
                defer { _ = try? Command(["umount", "small"], in: folder).run() }
                try builder.create("64M", as: "small/image.qcow2")
                let mapping = try Mapping(builder.path("small/image.qcow2"), readOnly: false)
                try builder.rawFile("noise.raw", 4 << 20)
                try builder.run(
                    "dd", "if=noise.raw", "of=\(mapping.device)", "bs=1M", "oflag=direct", "conv=fsync", "status=none")
                let tooMuch = try Command(
                    ["dd", "if=/dev/urandom", "of=\(mapping.device)", "bs=1M", "seek=8", "count=32", "oflag=direct"]
                ).run()
                #expect(tooMuch.exit != 0 && tooMuch.errors.contains("No space left"), "\(tooMuch)")
                #expect(try differenceOfFiles(mapping.device, builder.path("noise.raw"), limit: 4 << 20) == nil)
                // What has its place can be written still; what is given up makes room.
                try builder.run(
                    "dd", "if=noise.raw", "of=\(mapping.device)", "bs=64k", "skip=1", "count=1", "oflag=direct",
                    "status=none")
                try builder.run("blkdiscard", "-o", "\(8 << 20)", "-l", "\(32 << 20)", mapping.device)
                let outcome = try mapping.unmap()
                #expect(outcome.exit == 0, "\(outcome)")
                let check = try qemuImg("check", "small/image.qcow2", in: folder)
                #expect(check.exit == 0, "\(check)")
            }
        }

        @Test("no other process gets at an image that is mapped for writing", arguments: layouts)
        func locked(layout: Layout) throws {
            try Scratch.withFolder { folder in
                let builder = ImageBuilder(folder: folder)
                try layout.make(builder, "1M")
                let image = builder.path(layout.file)
                let mapping = try Mapping(image, readOnly: false, options: ["-f", layout.format], in: folder)
                for readOnly in [false, true] {
                    let error = #expect(throws: CommandFailure.self) {
                        _ = try Mapping(image, readOnly: readOnly, options: ["-f", layout.format], in: folder)
                    }
                    #expect(error?.outcome.errors.contains("lock") == true, "\(error.map { "\($0)" } ?? "")")
                }
                // In the folder: QEMU looks for data files from where it stands.
                let writing = Command(["qemu-io", "-f", layout.format, "-c", "write 0 512", layout.file], in: folder)
                let write = try writing.run()
                #expect(write.exit != 0 && write.errors.contains("lock"), "\(write)")
                // A raw file has nothing to be inconsistent about: QEMU lets others look.
                let info = try qemuImg("info", "-f", layout.format, layout.file, in: folder)
                #expect(layout.format == "raw" || info.exit != 0 && info.errors.contains("lock"), "\(info)")
                try builder.run("dd", "if=/dev/zero", "of=\(mapping.device)", "bs=4k", "count=1", "conv=fsync")
                #expect(try mapping.unmap().exit == 0)
                try writing.succeed()
            }
        }

        @Test("a write is in the image when the sync is answered")
        func sync() throws {
            try Scratch.withFolder { folder in
                let builder = ImageBuilder(folder: folder)
                try builder.create("16M")
                try builder.rawFile("noise.raw", 4 << 20)
                let mapping = try Mapping(builder.path("image.qcow2"), readOnly: false)
                try builder.run("dd", "if=noise.raw", "of=\(mapping.device)", "bs=1M", "conv=fsync", "status=none")
                // As a crash would find it.
                try builder.run("cp", "image.qcow2", "copy.qcow2")
                #expect(try mapping.unmap().exit == 0)
                try builder.img("convert", "-O", "raw", "copy.qcow2", "copy.raw")
                #expect(
                    try differenceOfFiles(builder.path("noise.raw"), builder.path("copy.raw"), limit: 4 << 20) == nil)
            }
        }

        @Test(
            "what cannot be written to is refused in one clear line", arguments: ["snapshot", "dm", "unnamed", "dirty"])
        func refused(why: String) throws {
            try Scratch.withFolder { folder in
                let builder = ImageBuilder(folder: folder)
                try builder.create("1M")
                try builder.img("snapshot", "-c", "one", "image.qcow2")
                try builder.run("cp", "image.qcow2", "image")
                var arguments = ["map", "image.qcow2"]
                var word = ""
                switch why {
                case "snapshot": (arguments, word) = (arguments + ["--snapshot", "one"], "-r")
                case "dm": (arguments, word) = (arguments + ["--via", "dm"], "-r")
                case "unnamed": (arguments, word) = (["map", "image"], "-f raw")
                default:
                    // The corrupt bit, of the incompatible features.
                    try builder.run(
                        "sh", "-c", "printf '\\002' | dd of=image.qcow2 bs=1 seek=79 conv=notrunc status=none")
                    word = "check"
                }
                let outcome = try qblk(arguments, in: folder)
                #expect(outcome.exit != 0 && outcome.output.isEmpty, "\(outcome)")
                #expect(outcome.errorLines.count == 1 && outcome.errors.contains(word), "\(outcome)")
                #expect(!(try qblk("list", "--json").output.contains(folder)))
            }
        }
    }
}
