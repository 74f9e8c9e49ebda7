// What a guest does with its disks in the tests of `serve` and `attach`, and how the host sees for itself that all of
// it reached the files.

import Foundation
import TestKit
import Testing

/// A raw disk of two partitions: a filesystem on the first, fio's patterns on the second.
enum PartitionedDisk {
    static let size = 256 << 20
    private static let start = 1 << 20
    private static let length = 128 << 20

    /// An empty disk, and beside it the files that will go into it.
    static func blank(in folder: String) throws -> String {
        try Command(["truncate", "-s", "\(size)", "\(folder)/disk.raw"]).succeed()
        try Command(
            [
                "sh", "-ec",
                """
                mkdir tree tree/sub
                for i in $(seq 200); do head -c $((i * i * 8)) /dev/urandom >tree/$i; done
                mv tree/*7 tree/sub
                head -c 8M /dev/urandom >random
                """,
            ], in: folder
        ).succeed()
        return "\(folder)/disk.raw"
    }

    /// Writes patterns and verifies them.
    static func fio(_ file: String, _ options: String) -> String {
        "fio --name=pattern --filename=\(file) --size=24M --rw=randrw --rwmixread=30 --bssplit=4k/50:512/20:128k/30 "
            + "--ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --allow_file_create=0 --verify_state_save=0 \(options)"
    }

    /// Partitions it, fills both partitions, and reads everything back past the caches.
    static func use(_ machine: GuestMachine) throws {
        try machine.succeed(
            """
            printf 'label: gpt\\nsize=128M\\nsize=64M\\n' | sfdisk -q /dev/vda
            mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda1
            mount /dev/vda1 /mnt
            cp -a tree /mnt
            sync
            dd if=random of=/dev/vda2 bs=1M seek=32 oflag=direct status=none
            blkdiscard -z -o 34M -l 2M /dev/vda2
            """)
        let patterns = try machine.run(fio("/dev/vda2", ""), deadline: 90)
        #expect(patterns.status == 0, "\(patterns)")
        try machine.succeed(
            """
            umount /mnt
            echo 3 >/proc/sys/vm/drop_caches
            mount -o ro /dev/vda1 /mnt
            diff -r tree /mnt/tree
            umount /mnt
            e2fsck -fn /dev/vda1
            cmp -i 0:32M -n 2M random /dev/vda2
            cmp -n 2M -i 0:34M /dev/zero /dev/vda2
            cmp -i 4M:36M -n 4M random /dev/vda2
            """)
        #expect(try machine.run("dmesg | grep 'I/O error'").status == 1)
    }

    /// What the host finds in the file, without a kernel's help.
    static func check(in folder: String, seed: String = "") throws {
        let partition = "\(folder)/disk.raw?offset=\(start)"
        let filesystem = try Command(["e2fsck", "-fn", partition]).run()
        #expect(filesystem.exit == 0, "\(filesystem)")
        try Command(["mkdir", "back"], in: folder).succeed()
        try Command(["debugfs", "-R", "rdump tree \(folder)/back", partition]).succeed()
        let difference = try Command(["diff", "-r", "tree", "back/tree"], in: folder).run()
        #expect(difference.exit == 0, "\(difference)")
        let second = "\(folder)/second"
        let skip = (start + length) >> 20
        try Command(["dd", "if=\(folder)/disk.raw", "of=\(second)", "bs=1M", "status=none", "skip=\(skip)", "count=64"])
            .succeed()
        let patterns = try Command(["sh", "-c", fio(second, "--verify_only \(seed)")]).run()
        #expect(patterns.exit == 0, "\(patterns)")
        // The random bytes from 32M on, with a hole of zeros from 34M to 36M.
        for (file, from, at, count) in [("random", 0, 32, 2), ("/dev/zero", 0, 34, 2), ("random", 4, 36, 4)] {
            let same = try Command(["cmp", "-i", "\(from)M:\(at)M", "-n", "\(count)M", file, second], in: folder).run()
            #expect(same.exit == 0, "\(same)")
        }
    }
}

/// A filesystem in a QCOW2 image over a backing file, some clusters compressed.
struct FilesystemImage {
    let path: String
    let size = 96 << 20
    private let sum: String

    init(in folder: String) throws {
        let builder = ImageBuilder(folder: folder)
        try builder.rawFile("noise", 6 << 20, seed: 7)
        try builder.run("mkdir", "content")
        try builder.run("cp", "-a", "noise", "/etc/passwd", "content")
        try builder.run("truncate", "-s", "\(size)", "base.raw")
        try builder.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", "content", "base.raw")
        // Half of the base is compressed clusters; above it are plain ones, zeros, and compressed ones again.
        try builder.img("convert", "-f", "raw", "-O", "qcow2", "-c", "base.raw", "base.qcow2")
        try builder.create("", backing: "qcow2:base.qcow2", as: "disk.qcow2")
        try builder.io(["write -P 0x5a 80M 1M", "write -z 84M 512k", "write -c -P 0xa5 88M 64k"], on: "disk.qcow2")
        path = builder.path("disk.qcow2")
        try builder.img("convert", "-f", "qcow2", "-O", "raw", "disk.qcow2", "reference.raw")
        sum = try Command(["sha256sum", builder.path("reference.raw")]).succeed().output.prefix(64).description
    }

    /// The guest reads the same bytes, sees the files in them, and cannot write.
    func read(_ machine: GuestMachine, as disk: String = "/dev/vdb") throws {
        #expect(try machine.succeed("sha256sum <\(disk)").hasPrefix(sum))
        #expect(try machine.run("dd if=/dev/zero of=\(disk) bs=4k count=1 oflag=direct").status != 0)
        #expect(try machine.succeed("dd if=\(disk) bs=1M iflag=direct status=none | sha256sum").hasPrefix(sum))
    }
}
