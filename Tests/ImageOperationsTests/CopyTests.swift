// Convert and compare on files made here byte by byte: what must be written, what must be left out, what must be
// refused, without another program to agree with.

import DiskTypes
import Glibc
import ImageChain
import Testing

@testable import ImageOperations
import SystemPackage

/// A folder that goes away.
private final class Folder {
    let path: String

    init() {
        var name = Array("/tmp/qblk-operations-XXXXXX".utf8CString)
        path = mkdtemp(&name).map { String(cString: $0) } ?? "/tmp"
    }
    deinit {
        for name in made { unlink(name) }
        rmdir(path)
    }
    private var made: [String] = []

    func file(_ name: String, _ bytes: [UInt8]? = nil) -> String {
        let full = "\(path)/\(name)"
        made.append(full)
        if let bytes {
            let fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
            _ = bytes.withUnsafeBytes { write(fd, $0.baseAddress, $0.count) }
            close(fd)
        }
        return full
    }
    func bytes(of path: String) -> [UInt8] {
        let fd = open(path, O_RDONLY)
        defer { close(fd) }
        var bytes = [UInt8](repeating: 0, count: Int(lseek(fd, 0, SEEK_END)))
        let count = bytes.withUnsafeMutableBytes { pread(fd, $0.baseAddress, $0.count, 0) }
        return Array(bytes[..<max(0, count)])
    }
    func blocks(of path: String) -> Int {
        var status = stat()
        return stat(path, &status) == 0 ? Int(status.st_blocks) : -1
    }
}

struct CopyTests {
    /// 3 MiB and some sectors: data, a block of zeros inside data, a megabyte of zeros, data at the very end.
    private static let pattern: [UInt8] = {
        var bytes = [UInt8](repeating: 0, count: 3 << 20 + 1536)
        for i in 0..<(1 << 20) { bytes[i] = UInt8(truncatingIfNeeded: i &* 31 &+ 7) | 1 }
        for i in 65536..<69632 { bytes[i] = 0 }
        bytes[bytes.count - 1] = 0x55
        return bytes
    }()

    private func options(_ change: (inout ConvertOptions) -> Void = { _ in }) -> ConvertOptions {
        var options = ConvertOptions()
        options.source.format = .raw
        change(&options)
        return options
    }

    @Test("every byte arrives, zeros take no space", arguments: [1, 2, 5])
    func plain(workers: Int) throws {
        let folder = Folder()
        let (from, to) = (folder.file("in", Self.pattern), folder.file("out"))
        try ImageConvert.raw(from: FilePath(from), to: FilePath(to), options { $0.workers = workers })
        #expect(folder.bytes(of: to) == Self.pattern)
        #expect(folder.blocks(of: to) * 512 < 2 << 20)
    }

    @Test("-S 0 takes all the space")
    func full() throws {
        let folder = Folder()
        let (from, to) = (folder.file("in", Self.pattern), folder.file("out"))
        try ImageConvert.raw(from: FilePath(from), to: FilePath(to), options { $0.sparse = 0 })
        #expect(folder.bytes(of: to) == Self.pattern)
        #expect(folder.blocks(of: to) * 512 >= 3 << 20)
    }

    @Test("old bytes of a target never show through", arguments: [true, false])
    func oldBytes(existing: Bool) throws {
        let folder = Folder()
        let old = [UInt8](repeating: 0xee, count: Self.pattern.count + 4096)
        let (from, to) = (folder.file("in", Self.pattern), folder.file("out", old))
        try ImageConvert.raw(from: FilePath(from), to: FilePath(to), options { $0.intoExisting = existing })
        let expected = existing ? Self.pattern + old.suffix(4096) : Self.pattern
        #expect(folder.bytes(of: to) == expected)
    }

    @Test("a target that is the source is refused and unharmed")
    func sameFile() throws {
        let folder = Folder()
        let from = folder.file("in", Self.pattern)
        let link = folder.file("link")
        symlink(from, link)
        #expect(throws: ImageError.self) { try ImageConvert.raw(from: FilePath(from), to: FilePath(link), options()) }
        #expect(folder.bytes(of: from) == Self.pattern)
    }

    @Test("a target that is too small is refused and unharmed")
    func tooSmall() throws {
        let folder = Folder()
        let small = [UInt8](repeating: 1, count: 4096)
        let (from, to) = (folder.file("in", Self.pattern), folder.file("out", small))
        #expect(throws: ImageError.self) {
            try ImageConvert.raw(from: FilePath(from), to: FilePath(to), options { $0.intoExisting = true })
        }
        #expect(folder.bytes(of: to) == small)
    }

    @Test("an interrupted conversion says so and names the output")
    func interrupted() throws {
        let folder = Folder()
        let (from, to) = (folder.file("in", Self.pattern), folder.file("out"))
        let options = options()
        options.cancel.set()
        let error = #expect(throws: ImageError.self) {
            try ImageConvert.raw(from: FilePath(from), to: FilePath(to), options)
        }
        #expect(error?.description.contains("interrupted") == true && error?.description.contains(to) == true)
    }

    @Test("the first difference is told by any worker", arguments: [0, 65536, (1 << 20) + 5, 3 << 20 + 1535])
    func difference(place: Int) throws {
        let folder = Folder()
        var other = Self.pattern
        other[place] ^= 0xff
        other[other.count - 1] = 0x12
        let (a, b) = (folder.file("a", Self.pattern), folder.file("b", other))
        var options = CompareOptions()
        options.workers = 3
        let found = try ImageCompare.run(FilePath(a), FilePath(b), options)
        #expect(found == Comparison(verdict: .contentDiffers(at: UInt64(place & ~511))))
    }

    @Test("a longer image is the same if the rest is zeros")
    func longer() throws {
        let folder = Folder()
        let (a, b) = (
            folder.file("a", Self.pattern), folder.file("b", Self.pattern + [UInt8](repeating: 0, count: 8192))
        )
        #expect(try ImageCompare.run(FilePath(a), FilePath(b)) == Comparison(verdict: .identical, hasOtherSize: true))
        var strict = CompareOptions()
        strict.strict = true
        #expect(try ImageCompare.run(FilePath(a), FilePath(b), strict) == Comparison(verdict: .sizesDiffer))
        #expect(try ImageCompare.run(FilePath(a), FilePath(a), strict) == Comparison(verdict: .identical))
    }

    @Test("what cannot be opened is exit code 2")
    func missing() throws {
        let folder = Folder()
        let a = folder.file("a", Self.pattern)
        let failure = #expect(throws: CompareFailure.self) {
            try ImageCompare.run(FilePath(a), FilePath(folder.file("none")))
        }
        #expect(failure?.step == .opening)
    }
}
