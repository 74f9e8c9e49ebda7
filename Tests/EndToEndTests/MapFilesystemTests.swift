// People map images to get at the files inside. Real filesystems, made without qblk, must be clean and whole when
// read through a mapped device; and fio, which trusts no block, must find every pattern it wrote.

import Foundation
import TestKit
import Testing

extension MapTests {
    @Suite("Filesystems and patterns")
    struct Contents {
        struct Disk: Sendable, CustomStringConvertible {
            let kind: String
            let compressed: Bool
            var description: String { kind + (compressed ? ", compressed" : "") }
        }
        static let disks = ["ext4", "xfs"].flatMap { kind in [false, true].map { Disk(kind: kind, compressed: $0) } }
        static let tools = ["mke2fs", "e2fsck", "mkfs.xfs", "xfs_repair", "mount"].filter { !Tools.have($0) }

        @Test("the filesystem is clean", .enabled(if: tools.isEmpty, "needs \(tools)"), arguments: disks)
        func clean(disk: Disk) throws {
            let image = try Self.image(of: disk)
            let mapping = try Mapping(image)
            let check = disk.kind == "ext4" ? ["e2fsck", "-fn"] : ["xfs_repair", "-n"]
            let outcome = try Command(check + [mapping.device]).run()
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(try mapping.unmap().exit == 0)
        }

        @Test("its files have the right checksums", .enabled(if: tools.isEmpty, "needs \(tools)"), arguments: disks)
        func files(disk: Disk) throws {
            let image = try Self.image(of: disk)
            let mapping = try Mapping(image)
            try Scratch.withFolder { folder in
                let mount = try Command(["mount", "-t", disk.kind, "-o", "ro", mapping.device, folder]).run()
                guard mount.exit == 0 else {
                    // A kernel without this filesystem is no fault of ours.
                    try #require(mount.errors.contains("unknown filesystem"), "\(mount)")
                    return
                }
                let sums = URL(filePath: image).deletingLastPathComponent().appending(path: "sums").path
                let outcome = try Command(["sha256sum", "--quiet", "-c", sums], in: folder).run()
                try Command(["umount", folder]).succeed()
                #expect(outcome.exit == 0, "\(outcome)")
            }
            #expect(try mapping.unmap().exit == 0)
        }

        @Test(
            "fio finds the patterns it wrote", .enabled(if: Tools.have("fio"), "needs fio"),
            arguments: ["plain", "compressed", "overlay"])
        func patterns(layout: String) throws {
            let mapping = try Mapping(try Self.patternImage(layout))
            let outcome = try Command(Self.fioVerify(mapping.device)).run()
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(try mapping.unmap().exit == 0)
        }

        // MARK: images

        static func fioVerify(_ device: String, _ more: [String] = []) -> [String] {
            [
                "fio", "--name=verify", "--filename=\(device)", "--rw=read", "--bs=64k", "--size=32M", "--direct=1",
                "--ioengine=libaio", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--readonly",
            ] + more
        }

        /// 32 MiB of fio's checksummed blocks.
        static func patternImage(_ layout: String) throws -> String {
            try Once.run("pattern:\(layout)") {
                let builder = ImageBuilder(folder: try Scratch.newFolder("pattern-\(layout)"))
                try builder.run(
                    "fio", "--name=fill", "--filename=pattern.raw", "--rw=write", "--bs=64k", "--size=32M",
                    "--verify=crc32c", "--do_verify=0", "--buffer_compress_percentage=60", "--refill_buffers")
                switch layout {
                case "overlay":
                    try builder.create("", "cluster_size=4k", backing: "raw:pattern.raw")
                case "compressed":
                    try builder.img("convert", "-c", "-f", "raw", "-O", "qcow2", "pattern.raw", "image.qcow2")
                default:
                    try builder.img("convert", "-f", "raw", "-O", "qcow2", "pattern.raw", "image.qcow2")
                }
                return builder.path("image.qcow2")
            }
        }

        /// A filesystem with a few hundred files, and `sums` beside it.
        static func image(of disk: Disk) throws -> String {
            try Once.run("filesystem:\(disk)") {
                let builder = ImageBuilder(folder: try Scratch.newFolder("filesystem"))
                try tree(builder)
                try builder.run("truncate", "-s", disk.kind == "ext4" ? "32M" : "320M", "disk.raw")
                if disk.kind == "ext4" {
                    try builder.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", "tree", "disk.raw")
                } else {
                    try Data(prototype(builder).utf8).write(to: URL(filePath: builder.path("prototype")))
                    try builder.run("mkfs.xfs", "-q", "-p", "prototype", "disk.raw")
                }
                let compress = disk.compressed ? ["-c"] : []
                let convert =
                    ["qemu-img", "convert"] + compress + ["-f", "raw", "-O", "qcow2", "disk.raw", "image.qcow2"]
                try Command(convert, in: builder.folder).succeed()
                try FileManager.default.removeItem(atPath: builder.path("disk.raw"))
                return builder.path("image.qcow2")
            }
        }

        private static func tree(_ builder: ImageBuilder) throws {
            try builder.run("mkdir", "-p", "tree/deep")
            for index in 0..<60 {
                try builder.rawFile(
                    "tree/\(index % 2 == 0 ? "deep/" : "")file\(index)", index * 2500 + 1, seed: UInt64(index))
            }
            try builder.run("sh", "-c", "cd tree && find . -type f | sort | xargs sha256sum > ../sums")
        }

        /// mkfs.xfs copies files in by a prototype, so that nothing needs mounting.
        private static func prototype(_ builder: ImageBuilder) -> String {
            let file = { (index: Int, folder: String) in
                "file\(index) ---644 0 0 \(builder.path("tree/\(folder)file\(index)"))"
            }
            let top = (0..<60).filter { $0 % 2 == 1 }.map { file($0, "") }
            let deep = (0..<60).filter { $0 % 2 == 0 }.map { file($0, "deep/") }
            return (["/none", "0 0", "d--755 0 0"] + top + ["deep d--755 0 0"] + deep + ["$", "$", ""])
                .joined(separator: "\n")
        }
    }
}
