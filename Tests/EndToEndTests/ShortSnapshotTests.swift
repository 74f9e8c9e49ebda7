// Other programs have written version 3 images whose snapshots do not say how large the disk was. QEMU reads them with the
// image's size, its check reports them, and its repair completes the table; so must ours.

import Foundation
import TestKit
import Testing

@Suite("Snapshot entries without their sizes", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ShortSnapshotTests {
    /// Takes the extra data of every entry of the snapshot table away but for its first `keep` bytes.
    private func shorten(_ builder: ImageBuilder, keep: Int) throws {
        try builder.patch("image") { patcher in
            let start = Int(patcher[.snapshotsOffset])
            var (from, table) = (start, Data())
            for _ in 0..<Int(patcher[.snapshotCount]) {
                let strings = Int(patcher.number(at: from + 12, width: 2) + patcher.number(at: from + 14, width: 2))
                let extra = Int(patcher.number(at: from + 36, width: 4))
                var entry = Data(patcher.bytes[from..<from + 36]) + [0, 0, 0, UInt8(keep)]
                entry += patcher.bytes[from + 40..<from + 40 + keep]
                entry += patcher.bytes[from + 40 + extra..<from + 40 + extra + strings]
                table += entry + Data(count: -entry.count & 7)
                from = (from + 40 + extra + strings + 7) & ~7
            }
            patcher.put(Data(count: from - start), at: start)
            patcher.put(table, at: start)
        }
    }

    private func make(_ builder: ImageBuilder, keep: Int, cluster: String, count: Int = 3) throws {
        try builder.create("4M", "cluster_size=\(cluster)", as: "image")
        for number in 1...count {
            try builder.io(["write -P \(number) 0 1M", "write -P \(number + 40) 2M 64k"], on: "image")
            try builder.img("snapshot", "-c", "state \(number)", "image")
        }
        try builder.io(["write -P 99 512k 1M"], on: "image")
        try shorten(builder, keep: keep)
    }

    @Test("are read, reported and completed as by QEMU", arguments: [0, 8], ["512", "4k", "64k"])
    func agree(keep: Int, cluster: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try make(builder, keep: keep, cluster: cluster)
            try builder.run("cp", "image", "theirs")
            let info = try qblk("info", "image", in: folder)
            #expect(info.exit == 0 && info.output.contains("state 2"), "\(info)")
            for number in 1...3 {
                #expect(
                    try qblk("convert", "-l", "state \(number)", "-O", "raw", "image", "ours.raw", in: folder).exit == 0
                )
                try builder.img("convert", "-l", "snapshot.name=state \(number)", "-O", "raw", "theirs", "theirs.raw")
                #expect(try differenceOfFiles(builder.path("ours.raw"), builder.path("theirs.raw")) == nil)
            }
            for repair in [[], ["-r", "leaks"], ["-r", "all"], []] {
                let ours = try qblk(["check", "-f", "qcow2", "--output=json"] + repair + ["image"], in: folder)
                let theirs = try Command(["qemu-img", "check", "--output=json"] + repair + ["theirs"], in: folder).run()
                #expect(ours.exit == theirs.exit, "\(repair): \(ours) \(theirs)")
                let (mine, other) = (try ours.json(), try theirs.json())
                for key in ["corruptions", "corruptions-fixed", "leaks", "leaks-fixed"] {
                    #expect(mine[key] == other[key], "\(repair): \(key)")
                }
            }
            try builder.img("check", "image")
            for number in 1...3 {
                try builder.img("convert", "-l", "snapshot.name=state \(number)", "-O", "raw", "image", "ours.raw")
                try builder.img("convert", "-l", "snapshot.name=state \(number)", "-O", "raw", "theirs", "theirs.raw")
                #expect(try differenceOfFiles(builder.path("ours.raw"), builder.path("theirs.raw")) == nil)
            }
        }
    }

    @Test("are completed before the disk gets another size, which would be theirs, too")
    func resize() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try make(builder, keep: 0, cluster: "64k")
            let refused = try qblk("resize", "-f", "qcow2", "image", "8M", in: folder)
            #expect(refused.exit == 1 && refused.errors.contains("check -r all"), "\(refused)")
            #expect(try qblk("check", "-r", "all", "-f", "qcow2", "image", in: folder).exit == 0)
            #expect(try qblk("resize", "-f", "qcow2", "image", "8M", in: folder).exit == 0)
            #expect(try qblk("convert", "-l", "state 1", "-O", "raw", "image", "one.raw", in: folder).exit == 0)
            #expect(try fileSize(builder.path("one.raw")) == 4 << 20)
        }
    }

    @Test("a table that gets longer than its clusters moves, and its old place is free")
    func moves() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try make(builder, keep: 0, cluster: "512", count: 12)
            #expect(try qblk("check", "-r", "all", "-f", "qcow2", "image", in: folder).exit == 0)
            let checked = try qemuImg("check", "image", in: folder)
            #expect(checked.exit == 0, "\(checked)")
            try builder.img("snapshot", "-a", "state 7", "image")
            try builder.io(["read -P 7 0 1M", "read -P 47 2M 64k"], on: "image")
        }
    }
}
