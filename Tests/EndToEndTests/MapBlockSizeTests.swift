// Partition tables count in blocks. A disk that was partitioned with blocks of 4096 bytes shows its partitions only on a
// device that has such blocks, and `map` must say so where it has not.

import Foundation
import TestKit
import Testing

@Suite(
    "The block size of a map", .serialized, .enabled(if: Tools.canCompare, "\(Tools.compareReason)"),
    .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
struct MapBlockSizeTests {
    /// A disk of 16 MiB with a GPT of two partitions of 4 and 8 MiB, counted in blocks of `blockSize`.
    private func partitioned(_ builder: ImageBuilder, blockSize: Int, format: String) throws -> String {
        try builder.run(
            "sh", "-c",
            """
            set -e; truncate -s 16M disk.raw; loop=$(losetup -f --show -b \(blockSize) disk.raw)
            printf 'label: gpt\\nsize=4M\\nsize=8M\\n' | sfdisk --quiet --no-reread --no-tell-kernel $loop; losetup -d $loop
            """)
        try builder.img("convert", "-f", "raw", "-O", format, "disk.raw", "image.\(format)")
        return builder.path("image.\(format)")
    }

    @Test("the device has it, and its partitions are there", arguments: ["qcow2", "raw"])
    func device(format: String) throws {
        try Scratch.withFolder { folder in
            let image = try partitioned(ImageBuilder(folder: folder), blockSize: 4096, format: format)
            let mapping = try Mapping(image, readOnly: false, options: ["-f", format, "--block-size", "4096"])
            #expect(try Command(["blockdev", "--getss", mapping.device]).succeed().output == "4096\n")
            if Tools.kernelReadsPartitions {
                let size = try Command(["blockdev", "--getsize64", "\(mapping.device)p1"]).run()
                #expect(size.output == "4194304\n", "\(size)")
            }
            try Command(["dd", "if=/dev/zero", "of=\(mapping.device)", "bs=4k", "seek=9", "count=1", "oflag=direct"])
                .succeed()
            let refused = try Command([
                "dd", "if=/dev/zero", "of=\(mapping.device)", "bs=512", "count=1", "oflag=direct",
            ]).run()
            #expect(refused.exit == 1, "half a block: \(refused)")
            #expect(try mapping.unmap().exit == 0)
        }
    }

    @Test("a table that counts in other blocks is named, with the option", arguments: [(4096, 512), (512, 4096)])
    func note(table: Int, device: Int) throws {
        try Scratch.withFolder { folder in
            let image = try partitioned(ImageBuilder(folder: folder), blockSize: table, format: "qcow2")
            let name = Mapping.freshName()
            let outcome = try qblk(
                "map", image, "-r", "--via", "loop", "--name", name, "--block-size", "\(device)")
            #expect(try qblk("unmap", name).exit == 0)
            #expect(outcome.exit == 0 && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.contains("--block-size \(table)") && !outcome.errors.contains("partx"), "\(outcome)")
        }
    }

    @Test("what cannot be is refused by name")
    func refused() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M")
            try builder.img("create", "-q", "-f", "raw", "odd.raw", "1049088")
            for (arguments, words) in [
                (["image.qcow2", "-r", "--via", "dm", "--block-size", "4096"], "blocks of 512 bytes"),
                (["image.qcow2", "-r", "--block-size", "8192"], "512, 1024, 2048 or 4096"),
                (["odd.raw", "-f", "raw", "-r", "--via", "loop", "--block-size", "4096"], "no whole blocks"),
            ] {
                let outcome = try qblk(["map"] + arguments, in: folder)
                #expect(outcome.exit == 1 && outcome.errors.contains(words), "\(outcome)")
            }
        }
    }
}
