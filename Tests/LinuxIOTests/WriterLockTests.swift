// A write that a killed process left in flight must be over before anybody else writes; its open file description
// stands for it here.
import DiskTypes
import Glibc
import LinuxIO
import Testing
import SystemPackage

@Suite struct WriterLockTests {
    /// Holds what a request in flight would hold, by a thread that closes it after `milliseconds`.
    private struct Dying: ThreadWork, ~Copyable {
        let fd: Int32
        let milliseconds: UInt32
        consuming func run() {
            usleep(milliseconds * 1000)
            close(fd)
        }
    }

    @Test("the next writer waits until the last description of the one before is closed")
    func waits() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(512))
        var old: HostFile? = try HostFile.open(path: FilePath(path), writable: true, direct: .never)
        let held = dup(try #require(old).fd)
        try WriterLock.take(on: try #require(old))
        old = nil
        let new = try HostFile.open(path: FilePath(path), writable: true)
        let error = #expect(throws: ImageError.self) { try WriterLock.take(on: new, milliseconds: 50) }
        #expect(error?.kind == .locked)
        let thread = try WorkerThread.start("dying", Dying(fd: held, milliseconds: 200))
        try WriterLock.take(on: new, milliseconds: 60_000)
        thread.join()
    }

    @Test("what goes past the page cache is waited for as well")
    func direct() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(4096))
        var old: HostFile? = try HostFile.open(path: FilePath(path), writable: true)
        guard let file = old, file.directFD >= 0 else { return }
        let held = dup(file.directFD)
        try WriterLock.take(on: file)
        old = nil
        _ = consume file
        for mode in [HostFile.DirectMode.ifPossible, .never] {
            let new = try HostFile.open(path: FilePath(path), writable: true, direct: mode)
            #expect(throws: ImageError.self) { try WriterLock.take(on: new, milliseconds: 20) }
        }
        close(held)
        try WriterLock.take(on: try HostFile.open(path: FilePath(path), writable: true), milliseconds: 60_000)
    }

    @Test("the length is looked at anew: the last writes may have changed it")
    func length() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(512))
        let file = try HostFile.open(path: FilePath(path), writable: true)
        #expect(truncate(path, 8192) == 0)
        try WriterLock.take(on: file)
        #expect(file.length == 8192)
    }

    @Test("locks that are joined are raised without asking, and keep others out")
    func joining() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(512))
        let files = try (0..<3).map { _ in try HostFile.open(path: FilePath(path), writable: true) }
        try ImageLock.take(.writableImage, on: files[0])
        try ImageLock.take(.writableImage, on: files[1], joining: true)
        ImageLock.release(files[0])
        #expect(throws: ImageError.self) { try ImageLock.take(.writableImage, on: files[2]) }
        ImageLock.release(files[1])
        try ImageLock.take(.writableImage, on: files[2])
    }
}
