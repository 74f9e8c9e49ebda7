// The registry lives on these few calls; each has to hold at its edges.
import Glibc
import LinuxIO
import SystemPackage
import Testing

struct FilesystemTests {
    @Test func directoriesAreMadeWithTheirParents() throws {
        let scratch = try Scratch()
        let deep = scratch.path + "/x/y//z/"
        try Filesystem.makeDirectory(FilePath(deep), mode: 0o700)
        try Filesystem.makeDirectory(FilePath(deep))
        #expect(Filesystem.isDirectory(FilePath(deep)))
        for name in ["x/y/z", "x/y", "x"] {
            #expect(try Filesystem.removeDirectory(FilePath(scratch.path + "/" + name)))
        }
        #expect(try Filesystem.removeDirectory(FilePath(scratch.path + "/x")) == false)
        let file = try scratch.file("file")
        #expect(throws: Errno.fileExists) { try Filesystem.makeDirectory(FilePath(file)) }
    }

    @Test func anAtomicWriteReplacesTheWholeFile() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(10_000))
        try Filesystem.writeAtomically(FilePath(path), "short", mode: 0o600)
        #expect(try Filesystem.read(FilePath(path)) == "short")
        #expect(try Filesystem.list(FilePath(scratch.path)) == ["a"])
        #expect(throws: Errno.noSuchFileOrDirectory) { try Filesystem.writeAtomically("/nowhere/at/all", "x") }
    }

    @Test func tooLongAFileIsAnErrorAndNotACut() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(100_000))
        #expect(try Filesystem.readBytes(FilePath(path), limit: 100_000) == pattern(100_000))
        #expect(throws: Errno(rawValue: EFBIG)) { try Filesystem.readBytes(FilePath(path), limit: 99_999) }
    }

    @Test func removingWhatIsNotThereIsNoError() throws {
        let scratch = try Scratch()
        #expect(try Filesystem.removeFile(FilePath(scratch.file("a"))))
        #expect(try Filesystem.removeFile(FilePath(scratch.path + "/a")) == false)
    }

    @Test func pathsResolve() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a")
        #expect(symlink("a", scratch.path + "/link") == 0)
        #expect(try FilePath(scratch.path + "/./link").realPath() == FilePath(path).realPath())
        #expect(throws: Errno.noSuchFileOrDirectory) { try FilePath("/nowhere/at/all").realPath() }
        #expect(FilePath("/a/b").parent == "/a" && FilePath("/a").parent == "/")
        #expect(FilePath("a").parent == ".")
        #expect(Filesystem.identity(of: FilePath(path)) == Filesystem.identity(of: FilePath(scratch.path + "/link")))
    }

    @Test func theMountTableIsParsedWithItsEscapes() {
        let table = MountTable.parse(
            Array(
                """
                36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root\\134x rw,errors=continue
                37 35 0:44 / /plain rw - fuse.x qblk rw
                nonsense
                38 35 0:44 / /cut rw -
                """.utf8))
        #expect(table.count == 2)
        #expect(table.first?.mountPoint == "/mnt 2" && table.first?.source == "/dev/root\\x")
        #expect(table.first?.device == "98:0" && table.first?.root == "/mnt1" && table.first?.type == "ext3")
        #expect(table.last?.superOptions == "rw" && table.last?.options == "rw" && table.last?.id == 37)
        #expect((try? MountTable.read())?.contains { $0.mountPoint == "/" } == true)
    }
}
