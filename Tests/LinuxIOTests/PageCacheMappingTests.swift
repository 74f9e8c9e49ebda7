// A window must never show what the file does not have, whatever happens to the file, and must never offer a page
// that a write could be lost in.
import DiskTypes
import Foundation
import Glibc
import LinuxIO
import Testing
import SystemPackage

struct PageCacheMappingTests {
    /// In memory, and on a disk where the file system there is one that windows are for.
    private static let places = ["/dev/shm", "/tmp"]

    private struct Opened {
        let scratch: Scratch
        let path: String
        let file: HostFile
        let window: PageCacheMapping
    }

    /// Ends the test where the file system of the place is none that windows are for.
    private func open(_ place: String, _ bytes: [UInt8], room: UInt64 = 0) throws -> Opened {
        let scratch = try Scratch(in: place)
        let path = try scratch.file("a", bytes)
        let file = try HostFile.open(path: FilePath(path), writable: true, direct: .never)
        guard let window = file.pages(room: room) else {
            try #require(place != "/dev/shm", "memory always has windows")
            try Test.cancel("\(place) is neither tmpfs, ext4 nor XFS")
        }
        return Opened(scratch: scratch, path: path, file: file, window: window)
    }

    private func copy(_ window: PageCacheMapping, _ offset: UInt64, _ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0xee, count: count)
        let went = bytes.withUnsafeMutableBytes { memory in
            memory.baseAddress.map { window.pages.copy(offset, to: $0, count) } ?? false
        }
        return went ? bytes : nil
    }

    @Test("Pages are held once they or their neighbours were looked at, and show the file's bytes", arguments: places)
    func looks(place: String) throws {
        let it = try open(place, pattern(200_000))
        #expect(!it.window.pages.holds(70_000, 1))
        it.window.look(70_000, 8192)
        #expect(it.window.pages.holds(70_000, 8192) && it.window.pages.holds(65536, 65536))
        #expect(!it.window.pages.holds(65535, 2) && !it.window.pages.holds(131_071, 2))
        #expect(copy(it.window, 5000, 3000) == Array(pattern(40_960)[5000..<8000]))
        try it.file.write(at: HostOffset(6000), [1, 2, 3])
        #expect(copy(it.window, 5999, 5)?[1...3] == [1, 2, 3])
    }

    @Test("The page that the file ends in is not held: what is written behind the end would be lost", arguments: places)
    func ends(place: String) throws {
        let it = try open(place, pattern(10_000), room: 1 << 20)
        it.window.look(0, 10_000)
        it.window.wrote(0, 10_000)
        #expect(it.window.pages.holds(0, 8192))
        #expect(!it.window.pages.holds(8192, 1) && !it.window.pages.holds(9999, 1))
        // Longer now: it counts once it was looked at again.
        try it.file.write(at: HostOffset(10_000), pattern(10_000))
        it.window.look(8192, 8192)
        #expect(it.window.pages.holds(8192, 8192) && !it.window.pages.holds(16_384, 1))
    }

    @Test("Holes of a file in memory are not held: to touch one would fill it")
    func holes() throws {
        let it = try open("/dev/shm", pattern(4096))
        try it.file.truncate(to: 1 << 20)
        it.window.look(0, 1 << 20)
        it.window.look(0, 4096)
        #expect(it.window.pages.holds(0, 4096) && !it.window.pages.holds(4096, 1))
        #expect(try it.file.diskUsage() == 4096)
    }

    @Test("There is room for what the file has and nothing else, and holes can be populated")
    func room() throws {
        let it = try open("/dev/shm", pattern(4096), room: 8 << 20)
        try it.file.truncate(to: 5 << 20 | 512)
        #expect(it.window.makeRoom(0, 5 << 20 | 512) && it.window.makeRoom(5 << 20, 512))
        #expect(!it.window.makeRoom(5 << 20, 513) && !it.window.makeRoom(6 << 20, 1) && !it.window.makeRoom(.max, 1))
        #expect(!it.window.pages.holds(1 << 20, 1))
        #expect(it.window.pages.populate(2 << 20 | 512, 8192))
        #expect(try it.file.diskUsage() == 16384)
        #expect(truncate(it.path, 1 << 20) == 0)
        #expect(!it.window.pages.populate(2 << 20, 8192))
        #expect(!it.window.makeRoom(2 << 20, 8192))
    }

    @Test("Looking at pages of a file on a disk makes none of them dirty")
    func staysClean() throws {
        let it = try open("/tmp", pattern(64 << 10))
        try it.file.sync()
        #expect(try dirtyBytes(it.path) == 0)
        it.window.look(0, 64 << 10)
        #expect(copy(it.window, 0, 64 << 10) == pattern(64 << 10))
        #expect(try dirtyBytes(it.path) == 0)
    }

    /// Of this process's mapping of a file.
    private func dirtyBytes(_ path: String) throws -> Int {
        let handle = try #require(FileHandle(forReadingAtPath: "/proc/self/smaps"))
        let maps = String(decoding: try handle.readToEnd() ?? Data(), as: UTF8.self)
        var isTheFile = false
        var sum = 0
        for line in maps.split(separator: "\n") {
            if line.contains("-"), !line.contains("kB") { isTheFile = line.hasSuffix(path) }
            guard isTheFile, line.contains("_Dirty:") else { continue }
            sum += Int(line.split(separator: " ")[1]) ?? 0
        }
        return sum
    }

    @Test("A file that becomes shorter ends the copy, not the process, any number of times", arguments: places)
    func cut(place: String) throws {
        let it = try open(place, pattern(40_960))
        it.window.look(0, 40_960)
        #expect(truncate(it.path, 8192) == 0)
        for _ in 0..<3 {
            #expect(copy(it.window, 8192, 4096) == nil)
            #expect(copy(it.window, 4096, 8192) == nil)
            #expect(copy(it.window, 0, 8192) == Array(pattern(40_960)[..<8192]))
        }
        // It is there again, as zeros: nothing of this process stands in its place.
        #expect(truncate(it.path, 40_960) == 0)
        #expect(copy(it.window, 8192, 4096) == [UInt8](repeating: 0, count: 4096))
    }

    @Test("What was forgotten is not held, and still right", arguments: places)
    func forgets(place: String) throws {
        let it = try open(place, pattern(1 << 20))
        it.window.look(0, 1 << 20)
        it.window.forget(70 * 4096 + 5, 100 * 4096)
        #expect(it.window.pages.holds(0, 70 * 4096) && it.window.pages.holds(171 * 4096, 85 * 4096))
        for page in 70...170 { #expect(!it.window.pages.holds(UInt64(page) * 4096, 1)) }
        it.window.forgetAll()
        #expect(!it.window.pages.holds(0, 1))
        #expect(copy(it.window, 300_000, 100) == Array(pattern(1 << 20)[300_000..<300_100]))
    }

    @Test("Ranges that no file has are answered, not trapped on")
    func nonsense() throws {
        let it = try open("/dev/shm", pattern(8192))
        for offset in [0, 8192, 1 << 21, 1 << 43, UInt64.max - 1, .max] {
            for length in [0, -1, Int.min, Int.max, 1] {
                it.window.look(offset, length)
                it.window.wrote(offset, length)
                #expect(offset == 0 && length == 1 || !it.window.pages.holds(offset, length))
            }
            it.window.forget(offset, .max)
        }
        #expect(!MappedPages.none.holds(0, 1))
    }
}
