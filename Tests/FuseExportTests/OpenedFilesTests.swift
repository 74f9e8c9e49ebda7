// A chain that is opened by descriptors has the files that it had, whatever was renamed, replaced or removed meanwhile,
// and what differs is an error.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import TestKit
import Testing
import SystemPackage

@Suite(.enabled(if: Tools.have("qemu-img"), "needs qemu-img")) struct OpenedFilesTests {
    /// top.qcow2 (with a data file) over mid.qcow2 over base.raw.
    private static func withChain(_ body: (ImageBuilder, ImageChain) throws -> Void) throws {
        try Scratch.withFolder("opened") { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("base.raw", 1 << 20)
            try builder.create("1M", backing: "raw:base.raw", as: "mid.qcow2")
            try builder.create("1M", "data_file=top.data", backing: "qcow2:mid.qcow2", as: "top.qcow2")
            try body(builder, try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: options()))
        }
    }

    private static func options(_ chain: ImageChain? = nil, _ use: OpenedFile.Use = .reopen) -> OpenOptions {
        var options = OpenOptions()
        options.format = .qcow2
        options.files = chain?.openedFiles
        options.filesUse = use
        return options
    }

    @Test(arguments: ["rename", "replace", "remove"]) func namesDoNotCount(what: String) throws {
        try Self.withChain { builder, first in
            let script =
                switch what {
                case "rename": "mkdir d; mv *.* d"
                case "replace": "for f in *.*; do cp $f new; mv new $f; done"
                default: "rm *.*"
                }
            try builder.run("sh", "-c", script)
            for use in [OpenedFile.Use.reopen, .share] {
                let again = try ImageChain.open(
                    path: FilePath(builder.path("top.qcow2")), options: Self.options(first, use))
                #expect(again.files.map(\.identity) == first.files.map(\.identity))
                #expect(again.layers.map(\.format) == [.qcow2, .qcow2, .raw])
                #expect(again.files.count == 4 && again.size == 1 << 20)
            }
        }
    }

    @Test func aReopenedFileHasLocksOfItsOwnAndASharedOneGoesOnWithThem() throws {
        try Scratch.withFolder("opened") { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "a.qcow2")
            var writing = Self.options()
            writing.writable = true
            let first = try ImageChain.open(path: FilePath(builder.path("a.qcow2")), options: writing)
            writing.files = first.openedFiles
            let refused = #expect(throws: ImageError.self) {
                _ = try ImageChain.open(path: FilePath(builder.path("a.qcow2")), options: writing)
            }
            #expect(refused?.kind == .locked)
            writing.filesUse = .share
            writing.takesWriterLock = false
            let second = try ImageChain.open(path: FilePath(builder.path("a.qcow2")), options: writing)
            #expect(second.isWritable)
        }
    }

    @Test func anotherFileIsNotTaken() throws {
        try Self.withChain { builder, first in
            try builder.run("cp", "mid.qcow2", "copy.qcow2")
            let copy = try HostFile.open(path: FilePath(builder.path("copy.qcow2")))
            var wanted = Self.options(first)
            wanted.files?[2].descriptor = copy.fd
            let error = #expect(throws: ImageError.self) {
                _ = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: wanted)
            }
            #expect(error?.kind == .reference && error?.what.contains("another file") == true)
        }
    }

    @Test func aFileThatWasCutIsNotTaken() throws {
        try Self.withChain { builder, first in
            try builder.run("truncate", "-s", "512k", "base.raw")
            let error = #expect(throws: ImageError.self) {
                _ = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: Self.options(first))
            }
            #expect(error?.kind == .reference && error?.what.contains("shorter") == true)
        }
    }

    @Test func whatABaseGrewByIsNotOfTheDisk() throws {
        try Scratch.withFolder("opened") { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("base.raw", 512 << 10)
            try builder.create("1M", backing: "raw:base.raw", as: "top.qcow2")
            let first = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: Self.options())
            try builder.run("sh", "-c", "head -c 512k /dev/urandom >>base.raw")
            let again = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: Self.options(first))
            #expect(again.layers[1].size == 512 << 10)
        }
    }

    @Test(arguments: [true, false]) func aHeaderThatWasChangedIsAnError(longer: Bool) throws {
        try Self.withChain { builder, first in
            if longer {
                var short = Self.options(first)
                short.files?.removeLast()
                let error = #expect(throws: ImageError.self) {
                    _ = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: short)
                }
                #expect(error?.kind == .reference)
            } else {
                // As a repair behind our back would: the offset of the backing file's name is 0 now.
                try builder.run("dd", "if=/dev/zero", "of=mid.qcow2", "bs=8", "seek=1", "count=1", "conv=notrunc")
                let error = #expect(throws: ImageError.self) {
                    _ = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: Self.options(first))
                }
                #expect(
                    error?.kind == .reference && error?.what.contains("fewer") == true, "\(String(describing: error))")
            }
        }
    }

    @Test func aNameThatLeadsToAnotherFileIsNoticed() throws {
        try Self.withChain { builder, first in
            var wanted = Self.options()
            wanted.identity = first.files[0].identity
            _ = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: wanted)
            try builder.run("sh", "-c", "cp top.qcow2 new; mv new top.qcow2")
            let error = #expect(throws: ImageError.self) {
                _ = try ImageChain.open(path: FilePath(builder.path("top.qcow2")), options: wanted)
            }
            #expect(error?.kind == .reference && error?.advice == "try again")
        }
    }
}
