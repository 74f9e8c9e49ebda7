// Names in headers: which file each leads to is asked of qemu-img, in a folder where the file beside the overlay and the
// one in the working folder hold different bytes. This program reads the same file, or refuses.

import TestKit
import Testing

@Suite("Names in headers lead where QEMU's do", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ReferenceNameTests {
    /// A backing name, its format in the header, and whether this program must follow it.
    struct Name: Sendable, CustomStringConvertible {
        let name: String
        var format = "qcow2"
        var isFollowed = true
        var description: String { "\(name) as \(format)" }
    }

    static let names: [Name] = [
        Name(name: "base"), Name(name: "file:base"), Name(name: "file:./base"), Name(name: "./a:b"),
        Name(name: "file:a:b"), Name(name: "base", format: "file"), Name(name: "file:base", format: "file"),
        Name(name: "base", format: "raw"),
        Name(name: #"json:{"driver":"qcow2","file":{"driver":"file","filename":"base"}}"#),
        Name(name: #"json: { 'driver': 'qcow2', 'file.driver': 'file', 'file.filename': 'base' }"#),
        Name(name: #"json:{"driver":"raw","file":{"driver":"file","filename":"base"}}"#),
        Name(name: #"json:{"driver":"qcow2","file":{"driver":"file","filename":"base"}}"#, format: "raw"),
        Name(name: #"json:{"file":{"filename":"\u0062ase"}}"#), Name(name: #"json:{"file.filename":"a:b"}"#),
        Name(name: #"json:{"driver":"file","filename":"base"}"#, format: "file"),
        Name(name: #"json:{"filename":"base"}"#, format: "file"),
        Name(name: #"json:{"driver":"file","filename":"base"}"#, isFollowed: false),
        Name(name: #"json:{"driver":"file","filename":"base"}"#, format: "raw", isFollowed: false),
        Name(name: #"json:{"driver":"qcow2","file":{"filename":"base"}}"#, format: "file", isFollowed: false),
        Name(name: #"json:{"file.filename":"base"}"#, format: "file", isFollowed: false),
        Name(name: "a:b", isFollowed: false), Name(name: "nbd:base", isFollowed: false),
        Name(name: #"json:{"driver":"qcow2","file":{"driver":"file","filename":"file:base"}}"#, isFollowed: false),
        Name(name: #"json:{"driver":"qcow2","driver":"raw","file.filename":"base"}"#, isFollowed: false),
        Name(name: #"json:{"driver":"qcow2","file":"base"}"#, isFollowed: false),
        Name(name: #"json:{"file":{"filename":"base","locking":"off"}}"#, isFollowed: false),
        Name(name: #"json:{"driver":"raw","offset":512,"file":{"filename":"base"}}"#, isFollowed: false),
        Name(name: #"json:{"driver":"vdi","file":{"filename":"base"}}"#, isFollowed: false),
        Name(name: #"json:{"file":{"driver":"nbd","filename":"base"}}"#, isFollowed: false),
        Name(name: #"json:{"file":{"filename":"base"}"#, isFollowed: false),
        Name(name: #"json:{"file":{"filename":"ba\u0000se"}}"#, isFollowed: false),
    ]

    @Test(arguments: names) func theSameFileIsRead(_ name: Name) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("mkdir", "sub")
            for (place, value) in [("base", 1), ("a:b", 2), ("sub/base", 3), ("sub/a:b", 4)] {
                try builder.run("qemu-img", "create", "-q", "-f", "qcow2", "./\(place)", "1M")
                try builder.io(["write -q -P \(value) 0 64k"], on: "./\(place)")
            }
            try builder.run(
                "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name.name, "-F", name.format, "sub/top", "1M")
            let theirs = try qemuImg("convert", "-f", "qcow2", "-O", "raw", "sub/top", "theirs", in: folder)
            let ours = try qblk(
                "convert", "-f", "qcow2", "-O", "raw", "--allow-path", ".", "sub/top", "ours", in: folder)
            #expect((ours.exit == 0) == name.isFollowed, "\(ours)")
            guard ours.exit == 0 else {
                #expect(ours.errorLines.count == 1 && ours.errors.contains("backing file"), "\(ours)")
                return
            }
            #expect(theirs.exit == 0, "\(theirs)")
            #expect(try differenceOfFiles("\(folder)/theirs", "\(folder)/ours") == nil)
        }
    }

    @Test(arguments: ["file:base", #"json:{"file":{"filename":"base"}}"#])
    func theWorkingFolderIsNotTheImages(_ name: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("mkdir", "sub")
            for place in ["base", "sub/base"] { try builder.create("1M", as: place) }
            try builder.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", "sub/top", "1M")
            let outcome = try qblk("convert", "-f", "qcow2", "-O", "raw", "sub/top", "o", in: folder)
            #expect(outcome.exit == 1 && outcome.errors.contains("outside the image's folder"), "\(outcome)")
            let inside = try qblk("convert", "-f", "qcow2", "-O", "raw", "top", "o", in: folder + "/sub")
            #expect(inside.exit == 0, "\(inside)")
        }
    }

    /// What is missing inside the image's folder is said to be missing, with the place. What lies outside, by the name's text
    /// or by a link, is not looked at.
    @Test(arguments: [
        ("nope/base", true), ("nope/deep/base", true), ("sub/nope/base", true), ("nope/../base", true),
        ("./nope/base", true), ("link/base", true), ("dangling/base", true), ("top/base", true),
        ("nope/../../base", false), ("../nope/base", false), ("../nope/../disks/base", false), ("out/base", false),
        ("out/nope/base", false), ("gone/base", false), ("gone", false), ("/nope/base", false),
    ])
    func aMissingFolderIsNotOutside(_ name: String, isInside: Bool) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("sh", "-c", "mkdir -p disks/sub other; cd disks; ln -s sub link; ln -s nope dangling")
            try builder.run("sh", "-c", "cd disks; ln -s ../other out; ln -s ../nope gone")
            try builder.run(
                "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", "disks/top", "1M")
            for verb in [["convert", "-f", "qcow2", "-O", "raw"], ["info", "--backing-chain"]] {
                let target = verb[0] == "convert" ? ["o"] : []
                let outcome = try qblk(verb + ["disks/top"] + target, in: folder)
                #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
                #expect(outcome.errors.contains("outside the image's folder") == !isInside, "\(outcome)")
                let isNamed = outcome.errors.contains("\"\(name)\" is not there: looked for disks/\(name)")
                #expect(isNamed == isInside, "\(outcome)")
            }
        }
    }

    @Test func aDataFileThatMayBeTwoIsNeither() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("sh", "-c", "mkdir sub; cd sub; qemu-img create -q -f qcow2 -o data_file=data top 1M")
            let only = try qblk("convert", "-f", "qcow2", "-O", "raw", "sub/top", "o", in: folder)
            #expect(only.exit == 0, "\(only)")
            try builder.run("truncate", "-s", "1M", "data")
            let two = try qblk("convert", "-f", "qcow2", "-O", "raw", "sub/top", "o", in: folder)
            #expect(two.exit == 1 && two.errors.contains("as QEMU takes it"), "\(two)")
        }
    }

    @Test("a map by a link counts from the link's folder", .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    func theLinksFolder() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("mkdir", "sub", "other")
            for (place, value) in [("sub/base", 1), ("other/base", 2)] {
                try builder.create("1M", as: place)
                try builder.io(["write -q -P \(value) 0 64k"], on: place)
            }
            try builder.run(
                "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "qcow2", "other/top", "1M")
            try builder.run("ln", "-s", "../other/top", "sub/link")
            try builder.img("convert", "-f", "qcow2", "-O", "raw", "sub/link", "theirs")
            for readOnly in [true, false] {
                let mapping = try Mapping("sub/link", readOnly: readOnly, options: ["-f", "qcow2"], in: folder)
                #expect(try differenceOfFiles(mapping.device, "\(folder)/theirs") == nil)
                #expect(try mapping.unmap().exit == 0)
            }
        }
    }
}
