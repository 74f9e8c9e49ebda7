// A preallocated image whose disk is no multiple of its cluster may end inside its last cluster, as QEMU makes it. It must be
// read, written, checked and resized like any other; and ours end with a whole cluster.

import Foundation
import TestKit
import Testing

@Suite("Preallocated disks of odd sizes", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct PreallocatedResizeTests {
    struct Case: Sendable, CustomStringConvertible {
        let options: String
        let size: Int
        let byUs: Bool
        var description: String { "\(options) \(size) by \(byUs ? "qblk" : "qemu-img")" }
    }
    static let cases = ["metadata", "falloc", "full"].flatMap { mode in
        ["cluster_size=512", "cluster_size=64k", "cluster_size=2M", "extended_l2=on", "compat=0.10"].flatMap { kind in
            [1_000_448, 512].flatMap { size in
                [true, false].map { Case(options: "\(kind),preallocation=\(mode)", size: size, byUs: $0) }
            }
        }
    }

    @Test("grow, shrink and stay as qemu-img leaves them", arguments: cases)
    func resize(one: Case) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            let made = ["create", "-q", "-f", "qcow2", "-o", one.options, "image", "\(one.size)"]
            try Command([one.byUs ? Tools.qblk : "qemu-img"] + made, in: folder).succeed()
            let cluster = Int(
                try qemuImg("info", "--output=json", "image", in: folder).json()["cluster-size"].map { "\($0)" } ?? "")
            if one.byUs, let cluster { #expect(try fileSize(builder.path("image")) % cluster == 0) }
            try builder.io(["write -P 5 \(one.size - 512) 512"], on: "image")
            try builder.run("cp", "--sparse=always", "image", "theirs")
            for step in ["+512", "+1500k", "+3M", "-2M", "+100k"] {
                let shrink = step.hasPrefix("-") ? ["--shrink"] : []
                let ours = try qblk(["resize", "-q", "-f", "qcow2"] + shrink + ["image", step], in: folder)
                #expect(ours.exit == 0, "\(step): \(ours)")
                try Command(["qemu-img", "resize", "-q", "-f", "qcow2"] + shrink + ["theirs", step], in: folder)
                    .succeed()
                #expect(try qemuImg("check", "-f", "qcow2", "image", in: folder).exit == 0)
                #expect(try qblk("check", "-f", "qcow2", "theirs", in: folder).exit == 0)
                try builder.img("compare", "-f", "qcow2", "-F", "qcow2", "image", "theirs")
            }
        }
    }

    @Test("convert makes whole clusters, too", arguments: ["metadata", "falloc", "full"])
    func converted(mode: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("raw", 1_000_448)
            let made = try qblk(
                "convert", "-f", "raw", "-O", "qcow2", "-o", "preallocation=\(mode)", "raw", "image", in: folder)
            #expect(made.exit == 0, "\(made)")
            #expect(try fileSize(builder.path("image")) % 65536 == 0)
            #expect(try qblk("resize", "-f", "qcow2", "image", "+1M", in: folder).exit == 0)
            try builder.img("check", "image")
            try builder.img("resize", "-q", "--shrink", "image", "1000448")
            try builder.img("compare", "-f", "raw", "-F", "qcow2", "raw", "image")
        }
    }

    @Test("a file that has lost a cluster of the disk is not made whole")
    func truncated() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1000448", "preallocation=full", as: "image")
            try builder.io(["write -P 5 0 1000448"], on: "image")
            let length = try fileSize(builder.path("image"))
            try builder.run("truncate", "-s", "\(length - 131_072)", "image")
            #expect(try qblk("resize", "-f", "qcow2", "image", "+1M", in: folder).exit == 1)
            #expect(try fileSize(builder.path("image")) == length - 131_072)
        }
    }
}
