// What a stranger's path may and may not do, and what reads and writes promise.
import DiskTypes
import Glibc
import LinuxIO
import Testing
import SystemPackage

struct HostFileTests {
    @Test func readsWhatIsThereAndNoMore() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(10_000))))
        #expect(file.length == 10_000)
        #expect(try file.read(at: HostOffset(9_000), count: 5_000) == Array(pattern(10_000)[9_000...]))
        #expect(try file.read(at: HostOffset(10_000), count: 1) == [])
        #expect(try file.read(at: HostOffset(UInt64.max), count: 1) == [])
        #expect(try file.read(at: HostOffset(UInt64.max - 1), count: Int.max) == [])
    }

    @Test func anAbsurdCountCostsNoMemory() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(100))))
        #expect(try file.read(at: HostOffset(0), count: Int.max).count == 100)
    }

    @Test func writesAndResizesAreSeenInTheLength() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a")), writable: true)
        try file.write(at: HostOffset(5_000), pattern(100))
        #expect(file.length == 5_100)
        #expect(try file.read(at: HostOffset(4_999), count: 3) == [0] + pattern(100)[..<2])
        try file.truncate(to: 1 << 20)
        #expect(try file.currentLength() == 1 << 20 && file.length == 1 << 20)
        try file.sync()
    }

    @Test func growthByOthersIsSeenWhenAskedFor() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(10))
        let reader = try HostFile.open(path: FilePath(path)),
            writer = try HostFile.open(path: FilePath(path), writable: true)
        try writer.write(at: HostOffset(10), pattern(10))
        #expect(reader.length == 10)
        #expect(try reader.read(at: HostOffset(10), count: 10) == pattern(10))
        #expect(reader.length == 20)
    }

    @Test func aFIFONeverBlocks() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/fifo"
        #expect(mkfifo(path, 0o600) == 0)
        #expect(
            message { try HostFile.open(path: FilePath(path)) } == "is a FIFO: name a regular file or a block device")
        #expect(message { try HostFile.open(path: FilePath(path), writable: true) }?.hasPrefix("is a FIFO") == true)
    }

    @Test(arguments: [("/dev/null", "is a character device"), ("/tmp", "is a directory")])
    func otherFileTypesAreRefused(path: String, reason: String) {
        #expect(
            message { try HostFile.open(path: FilePath(path)) } == reason + ": name a regular file or a block device")
    }

    @Test func aMissingFileIsNamed() throws {
        let error = #expect(throws: ImageError.self) { try HostFile.open(path: "/nowhere/at/all") }
        #expect(error?.description == "cannot open: No such file or directory")
        #expect(error?.path == "/nowhere/at/all")
        #expect(error?.kind == .system)
    }

    @Test func symbolicLinksLeadToTheSameIdentity() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a"), other = try scratch.file("b")
        #expect(symlink(path, scratch.path + "/link") == 0)
        let direct = try HostFile.open(path: FilePath(path)),
            linked = try HostFile.open(path: FilePath(scratch.path + "/link"))
        #expect(direct.identity == linked.identity)
        #expect(try HostFile.open(path: FilePath(other)).identity != direct.identity)
    }

    @Test func theDirectDescriptorReadsTheSameFile() throws {
        let scratch = try Scratch(in: diskDirectory)
        let path = try scratch.file("a", pattern(8192))
        let file = try HostFile.open(path: FilePath(path))
        #expect(unlink(path) == 0)
        guard file.directFD >= 0 else { return #expect(file.directOffsetAlignment == 1) }
        #expect(fcntl(file.fd, F_GETFL) & O_NONBLOCK == 0)
        let memory = try AlignedBuffer(count: 8192)
        let unit = file.directOffsetAlignment
        #expect(8192 % unit == 0 && unit >= 512 && file.directMemoryAlignment >= 1)
        #expect(pread(file.directFD, memory.pointer, 8192 - unit, off_t(unit)) == 8192 - unit)
        #expect(Array(memory.bytes[..<(8192 - unit)]) == Array(pattern(8192)[unit...]))
    }

    @Test func directAccessCanBeDeclined() throws {
        let scratch = try Scratch(in: diskDirectory)
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(10))), direct: .never)
        #expect(file.directFD == -1 && file.directMemoryAlignment == 1 && file.directOffsetAlignment == 1)
    }

    @Test(.enabled(if: exists("/dev/shm"), "no tmpfs")) func tmpfsKeepsNonblockAndNeedsNoDirectAccess() throws {
        let scratch = try Scratch(in: "/dev/shm")
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(10))))
        #expect(file.isTmpfs && file.directFD == -1)
        #expect(fcntl(file.fd, F_GETFL) & O_NONBLOCK != 0)
        #expect(try file.read(at: HostOffset(0), count: 10) == pattern(10))
    }

    @Test("an error carries the system's number") func errorsCarryNumbers() throws {
        let scratch = try Scratch()
        let missing = #expect(throws: ImageError.self) { try HostFile.open(path: FilePath(scratch.path + "/none")) }
        #expect(missing?.number == ENOENT)
        let file = try HostFile.open(path: FilePath(scratch.file("a")), writable: true)
        let tooLarge = #expect(throws: ImageError.self) { try file.truncate(to: 1 << 62) }
        #expect(tooLarge?.number == EFBIG)
        #expect(tooLarge?.named("b").number == EFBIG)
        let reader = try HostFile.open(path: file.path)
        let notWritable = #expect(throws: ImageError.self) { try reader.write(at: HostOffset(0), [1]) }
        #expect(notWritable?.number == EBADF)
    }

    @Test func holesAreFoundAndMade() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a")), writable: true)
        try file.truncate(to: 3 << 20)
        #expect(try file.nextData(from: HostOffset(0)) == nil)
        try file.write(at: HostOffset(1 << 20), pattern(1 << 20))
        #expect(try file.nextData(from: HostOffset(0)) == HostOffset(1 << 20))
        #expect(try file.nextHole(from: HostOffset(1 << 20)) == HostOffset(2 << 20))
        #expect(try file.nextHole(from: HostOffset(4 << 20)) == nil)
        let used = try file.diskUsage()
        #expect(used >= 1 << 20 && used < 2 << 20)
        guard try file.punchHole(at: HostOffset(1 << 20), length: 1 << 20) else { return }
        #expect(try file.nextData(from: HostOffset(0)) == nil)
        #expect(try file.diskUsage() < 1 << 20)
        #expect(file.length == 3 << 20)
        #expect(try file.reserve(at: HostOffset(3 << 20), length: 4096))
        #expect(file.length == (3 << 20) + 4096)
    }

    @Test func writingToAReadOnlyFileIsAnErrorWithItsPlace() throws {
        let scratch = try Scratch()
        let file = try HostFile.open(path: FilePath(scratch.file("a", pattern(10))))
        #expect(
            message { try file.write(at: HostOffset(16), [1]) }
                == "cannot write: Bad file descriptor (file offset 0x10)")
    }
}

/// A directory that is not in memory.
let diskDirectory = exists("/var/tmp") ? "/var/tmp" : "/tmp"

/// What a call that must fail says.
func message<T>(_ call: () throws -> T) -> String? {
    do {
        _ = try call()
        return nil
    } catch {
        return "\(error)"
    }
}
