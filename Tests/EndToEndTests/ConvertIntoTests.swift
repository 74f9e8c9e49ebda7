// `convert -n -O qcow2` writes into an image that is there: afterwards it reads as qemu-img would have made it read,
// what lies behind the source's end is as before, and its snapshots are what they were.

import Foundation
import TestKit
import Testing

@Suite("Convert into an image that is there", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ConvertIntoTests {
    static let targets = [
        "3M", "-o cluster_size=512 3M", "-o cluster_size=2M 3M", "-o extended_l2=on 3M", "-o compat=0.10 3M",
        "-o preallocation=metadata 3M", "-o data_file=data 3M", "-b base -F raw 3M", "-o compat=0.10 -b base -F raw 3M",
        "-o extended_l2=on -b base -F raw 3M",
    ]

    private func make(_ target: String, in folder: String) throws {
        let script = """
            head -c 700000 /dev/urandom > random && head -c 3M /dev/zero | tr '\\0' x > base
            cat random > source && truncate -s 1M source && cat random >> source && truncate -s 2M source
            """
        try Command(["sh", "-c", script], in: folder).succeed()
        let words = target.split(separator: " ").map(String.init)
        try Command(
            ["qemu-img", "create", "-q", "-f", "qcow2"] + words.dropLast() + ["image", words.last ?? ""], in: folder
        ).succeed()
        try Command(["qemu-io", "-f", "qcow2", "-c", "write -P 3 300k 2400k", "image"], in: folder).succeed()
    }

    @Test(
        "the source is in it, and what lies behind is as before", arguments: targets, [[], ["-m", "1"], ["-S", "0"]])
    func into(target: String, rest: [String]) throws {
        try Scratch.withFolder { folder in
            try make(target, in: folder)
            let outcome = try qblk(
                ["convert", "-n", "-f", "raw", "-O", "qcow2"] + rest + ["source", "image"], in: folder)
            try #require(outcome.exit == 0 && outcome.errors.isEmpty, "\(outcome)")
            try Command(["qemu-img", "check", "-f", "qcow2", "image"], in: folder).succeed()
            let script = """
                qemu-img convert -f qcow2 -O raw image disk && cmp -n 2097152 disk source &&
                    qemu-io -f raw -c 'read -P 3 2M 652k' disk >read && ! grep -q failed read
                """
            try Command(["sh", "-c", script], in: folder).succeed()
        }
    }

    @Test("a snapshot keeps what it had")
    func snapshot() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try make("3M", in: folder)
            try builder.img("snapshot", "-c", "one", "image")
            #expect(try qblk("convert", "-n", "-f", "raw", "-O", "qcow2", "source", "image", in: folder).exit == 0)
            try builder.img("check", "-f", "qcow2", "image")
            try Command(["sh", "-c", "qemu-img convert -O raw image disk && cmp -n 2097152 disk source"], in: folder)
                .succeed()
            try builder.img("snapshot", "-a", "one", "image")
            try Command(["qemu-io", "-f", "qcow2", "-c", "read -P 3 300k 2400k", "image"], in: folder).succeed()
        }
    }

    @Test(
        "what cannot be done is refused, as by qemu-img",
        arguments: [
            ["source", "small"], ["source", "missing"], ["source", "source"],
            ["-o", "cluster_size=4k", "source", "image"],
        ])
    func refused(arguments: [String]) throws {
        try Scratch.withFolder { folder in
            try make("3M", in: folder)
            try ImageBuilder(folder: folder).create("1M", as: "small")
            let all = ["convert", "-n", "-f", "raw", "-O", "qcow2"] + arguments
            let (ours, theirs) = (try qblk(all, in: folder), try Command(["qemu-img"] + all, in: folder).run())
            #expect(ours.exit == 1 && theirs.exit == 1 && !ours.errors.isEmpty, "\(ours) \(theirs)")
        }
    }

    @Test("with --target-is-zero zeros are not written")
    func targetIsZero() throws {
        try Scratch.withFolder { folder in
            try make("3M", in: folder)
            let outcome = try qblk(
                "convert", "-n", "--target-is-zero", "-f", "raw", "-O", "qcow2", "source", "image", in: folder)
            try #require(outcome.exit == 0, "\(outcome)")
            // A megabyte of which 700000 bytes are data: what was there shows where the source has zeros.
            try Command(["qemu-io", "-f", "qcow2", "-c", "read -P 3 720k 200k", "image"], in: folder).succeed()
        }
    }
}
