// A file of a format that is not read must not pass for a raw disk: every verb refuses it by name and leaves it as it is,
// unless -f raw says otherwise. The files are qemu-img's, and signatures written by hand for what it cannot make.

import Foundation
import TestKit
import Testing

@Suite("A foreign format is refused by name", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ForeignFormatTests {
    struct Kind: Sendable, CustomStringConvertible {
        /// What the message must contain.
        let name: String
        /// Shell commands that make the file `x`.
        let script: String
        var description: String { "\(name): \(script)" }
    }

    static let made = [
        Kind(name: "LUKS container", script: luks("")), Kind(name: "Parallels image", script: create("parallels")),
        Kind(name: "qcow image (version 1)", script: create("qcow")), Kind(name: "QED image", script: create("qed")),
        Kind(name: "VDI image", script: create("vdi")), Kind(name: "VDI image", script: create("vdi -o static=on")),
        Kind(name: "VHDX image", script: create("vhdx")),
        Kind(name: "VHDX image", script: create("vhdx -o subformat=fixed")),
        Kind(name: "VMDK image", script: create("vmdk")), Kind(name: "VMDK image", script: create("vmdk -o compat6")),
        Kind(name: "VMDK image", script: create("vmdk -o subformat=monolithicFlat")),
        Kind(name: "VMDK image", script: create("vmdk -o subformat=twoGbMaxExtentSparse")),
        Kind(name: "VMDK image", script: create("vmdk -o subformat=streamOptimized")),
        Kind(name: "VHD image", script: create("vpc")),
        Kind(name: "VHD image", script: create("vpc -o subformat=fixed")),
    ]
    static let written = [
        Kind(name: "Bochs image", script: start("Bochs Virtual HD Image")),
        Kind(name: "cloop image", script: start("#!/bin/sh\\n#V2.0 Format\\nmodprobe cloop")),
        Kind(name: "DMG image", script: end(512, "koly\\0\\0\\0\\4\\0\\0\\2\\0")),
        Kind(name: "LUKS container", script: start("LUKS\\272\\276\\0\\2")),
        Kind(name: "Parallels image", script: start("WithoutFreeSpace")),
        Kind(
            name: "VDI image",
            script: start("<<< Oracle VM VirtualBox Disk Image >>>") + put(64, "\\177\\020\\332\\276")),
        Kind(name: "VMDK image", script: start("COWD")),
        Kind(name: "VMDK image", script: start("\\276\\272\\376\\312")),
        Kind(name: "VMDK image", script: "printf '# made by hand\\n\\nversion=1\\nCID=1\\n' >x"),
        Kind(name: "VHD image", script: end(511, "conectix")),
    ]

    private static func create(_ format: String) -> String { "qemu-img create -q -f \(format) x 4M" }
    private static func luks(_ options: String) -> String {
        "qemu-img create -q -f luks --object secret,id=s,data=abc -o key-secret=s,iter-time=10\(options) x 4M"
    }
    private static func put(_ place: Int, _ text: String) -> String {
        "; printf '\(text)' | dd of=x bs=1 seek=\(place) conv=notrunc status=none"
    }
    private static func start(_ text: String) -> String { "truncate -s 1M x" + put(0, text) }
    private static func end(_ distance: Int, _ text: String) -> String {
        "truncate -s 1M x" + put((1 << 20) - distance, text)
    }

    /// The verbs that take a disk, as arguments; `x` is the foreign file.
    static let reading = [
        "extents x", "check x", "compare x ok", "compare ok x", "convert -O raw x out", "convert -O qcow2 x out",
        "table x",
        "map -r x", "map -r --via loop x", "serve -r --socket-path s x", "bench --seconds 0.1 x",
    ]
    static let writing = [
        "resize x 8M", "resize --shrink x 512k", "check -r all x", "map x", "serve --socket-path s x",
        "serve --export image=x,socket-path=s", "bench --rw write --destroy --seconds 0.1 x", "convert -n ok x",
    ]

    @Test("every verb refuses it, and leaves it as it is", arguments: made + written)
    func refused(kind: Kind) throws {
        try Scratch.withFolder { folder in
            try Command(
                ["sh", "-c", "set -e; \(kind.script); qemu-img create -q -f raw ok 1M; cp x before"], in: folder
            )
            .succeed()
            let info = kind.name.hasPrefix("LUKS") && Self.made.contains { $0.script == kind.script } ? [] : ["info x"]
            for line in info + Self.reading + Self.writing {
                let outcome = try qblk(line.split(separator: " ").map(String.init), in: folder, deadline: 20)
                let code: Int32 = line.hasPrefix("compare") ? 2 : 1
                #expect(outcome.exit == code && outcome.output.isEmpty, "\(outcome)")
                #expect(outcome.errorLines.count == 1 && outcome.errors.contains(kind.name), "\(outcome)")
                #expect(
                    outcome.errors.contains("-f raw") || outcome.errors.contains("-O raw"),
                    "it does not say what to do: \(outcome)")
            }
            #expect(try differenceOfFiles("\(folder)/x", "\(folder)/before") == nil)
            #expect(!FileManager.default.fileExists(atPath: "\(folder)/out"))
        }
    }

    @Test("with -f raw it is the bytes that it is", arguments: made + written)
    func raw(kind: Kind) throws {
        try Scratch.withFolder { folder in
            try Command(["sh", "-c", "set -e; \(kind.script); truncate -s %512 x"], in: folder).succeed()
            let outcome = try qblk("convert", "-f", "raw", "-O", "raw", "x", "out", in: folder)
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(try differenceOfFiles("\(folder)/x", "\(folder)/out") == nil)
            #expect(try qblk("resize", "-f", "raw", "x", "+1M", in: folder).exit == 0)
        }
    }

    @Test("as a new image's backing file it is named, also without -F", arguments: ["create", "convert"])
    func newBacking(verb: String) throws {
        try Scratch.withFolder { folder in
            try Command(["sh", "-c", "qemu-img create -q -f vdi x 4M; truncate -s 4M r"], in: folder).succeed()
            let words = verb == "create" ? ["create", "-f", "qcow2"] : ["convert", "-O", "qcow2", "-f", "raw", "r"]
            for (name, isForeign) in [("x", true), ("r", false), ("none", false)] {
                let backing = verb == "create" ? ["-b", name] : ["-o", "backing_file=\(name)"]
                let outcome = try qblk(words + backing + ["new"], in: folder)
                #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
                #expect(outcome.errors.contains("without its format"), "\(outcome)")
                #expect(outcome.errors.contains("-F raw"), "\(outcome)")
                let says = outcome.errors.contains("VDI image") && outcome.errors.contains("qemu-img convert -f vdi")
                #expect(says == isForeign, "\(outcome)")
            }
        }
    }

    @Test("as a backing file without a recorded format it is refused, as raw it is the bytes that it is")
    func backing() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.img("create", "-q", "-f", "vdi", "-o", "static=on", "base", "4M")
            try builder.img("create", "-q", "-f", "qcow2", "-u", "-b", "base", "-F", "raw", "image", "1M")
            try builder.patch("image") { $0.removeExtensions() }
            for verb in [["convert", "-O", "raw", "image", "out"], ["info", "--backing-chain", "image"]] {
                let outcome = try qblk(verb, in: folder)
                #expect(outcome.exit == 1 && outcome.errors.contains("base: the file is a VDI image"), "\(outcome)")
                #expect(outcome.errors.contains("record its format"), "\(outcome)")
            }
            try builder.img("rebase", "-u", "-b", "base", "-F", "raw", "image")
            #expect(try qblk("convert", "-O", "raw", "image", "out", in: folder).exit == 0)
            #expect(try differenceOfFiles("\(folder)/base", "\(folder)/out", limit: 1 << 20) == nil)
        }
    }

    @Test(
        "info describes a LUKS container as qemu-img does",
        arguments: [
            "", ",cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256", ",ivgen-alg=plain64,ivgen-hash-alg=sha1",
        ])
    func luksInfo(options: String) throws {
        try Scratch.withFolder { folder in
            try Command(["sh", "-c", Self.luks(options)], in: folder).succeed()
            for form in ["json", "human"] {
                let ours = try qblk("info", "--output=\(form)", "x", in: folder)
                let theirs = try qemuImg("info", "--output=\(form)", "x", in: folder)
                #expect(ours.exit == 0, "\(ours)")
                if form == "human" {
                    #expect(ours.output == theirs.output)
                } else {
                    #expect(try ours.json() == theirs.json())
                }
            }
        }
    }

    @Test("an image inside another format's name is what its signature says: writing needs -f")
    func named() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "disk.img")
            try builder.img("create", "-q", "-f", "raw", "raw.qcow2", "1M")
            let image = try qblk("resize", "disk.img", "2M", in: folder)
            #expect(
                image.exit == 1 && image.errors.contains("is a qcow2 image") && image.errors.contains("-f qcow2"),
                "\(image)")
            let raw = try qblk("resize", "raw.qcow2", "2M", in: folder)
            #expect(raw.exit == 1 && raw.errors.contains("no qcow2 image") && raw.errors.contains("-f raw"), "\(raw)")
            let plain = try qblk("resize", "missing.img", "2M", in: folder)
            #expect(plain.exit == 1 && plain.errors.contains("No such file"), "\(plain)")
            let into = try qblk("convert", "-n", "raw.qcow2", "disk.img", in: folder)
            #expect(into.exit == 1 && into.errors.contains("say -O qcow2"), "\(into)")
            #expect(try qblk("convert", "-n", "-O", "qcow2", "raw.qcow2", "disk.img", in: folder).exit == 0)
        }
    }
}
