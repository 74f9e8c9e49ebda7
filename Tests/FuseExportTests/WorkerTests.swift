// The worker against a kernel that is played by a test, over a socket that keeps messages apart: no root, no mount,
// and requests that the real kernel would never send.
import CQblk
import DiskTypes
import Foundation
import Glibc
import ImageChain
import LinuxIO
import TestKit
import Testing

@testable import FuseExport
import SystemPackage

/// The kernel's end of a FUSE connection.
private final class PlayedKernel {
    private let fd: Int32
    private let server: Thread
    private let end: Mailbox<Int>
    private var unique: UInt64 = 0
    private var isOpen = true
    let size: UInt64

    struct Reply {
        let unique: UInt64
        let error: Int32
        let payload: [UInt8]
    }

    /// Serves the image at `path`, which is opened for writing.
    init(_ path: String, _ format: ImageFormat, workers: Int = 1) throws {
        var options = OpenOptions()
        options.format = format
        options.writable = true
        let chain = try ImageChain.open(path: FilePath(path), options: options)
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | O_CLOEXEC, 0, &ends) == 0)
        fd = ends[0]
        var patience = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        let end: Mailbox<Int> = try Mailbox()
        self.end = end
        let (theirs, file) = (ends[1], FuseFile(chain))
        size = file.size
        server = Thread {
            do throws(ImageError) {
                try FuseServer(chain: chain, file: file, devices: [theirs]).run {}
                try chain.close()
                for file in chain.files { ImageLock.release(file) }
                end.post(0)
            } catch { end.post(1) }
            close(theirs)
        }
        server.start()
    }

    deinit { if isOpen { close(fd) } }

    /// Sends a request as it is; `length` is what its header says.
    @discardableResult func send(_ opcode: UInt32, _ body: [UInt8], length: Int? = nil, cutTo cut: Int? = nil) -> UInt64
    {
        unique += 2
        let header = fuse_in_header(
            len: UInt32(length ?? 40 + body.count), opcode: opcode, unique: unique, nodeid: 1, uid: 0, gid: 0, pid: 1,
            total_extlen: 0, padding: 0)
        let bytes = withUnsafeBytes(of: header) { Array($0) } + body
        let count = cut ?? bytes.count
        #expect(Glibc.send(fd, bytes, count, 0) == count)
        return unique
    }

    func receive() throws -> Reply {
        var bytes = [UInt8](repeating: 0, count: 256 << 10)
        let count = recv(fd, &bytes, bytes.count, 0)
        try #require(count >= 16, "no reply: \(count) \(errno)")
        let header = bytes.withUnsafeBytes { $0.loadUnaligned(as: fuse_out_header.self) }
        #expect(Int(header.len) == count)
        return Reply(unique: header.unique, error: -header.error, payload: Array(bytes[16..<count]))
    }

    /// Sends a request and waits for its answer.
    func ask(_ opcode: UInt32, _ body: [UInt8]) throws -> Reply {
        let number = send(opcode, body)
        let reply = try receive()
        #expect(reply.unique == number)
        return reply
    }

    static func write(_ offset: UInt64, _ data: [UInt8], size: UInt32? = nil) -> [UInt8] {
        var head = fuse_write_in()
        head.offset = offset
        head.size = size ?? UInt32(data.count)
        return withUnsafeBytes(of: head) { Array($0) } + data
    }

    static func allocate(_ mode: Int32, _ offset: UInt64, _ length: UInt64) -> [UInt8] {
        let body = fuse_fallocate_in(fh: 0, offset: offset, length: length, mode: UInt32(mode), padding: 0)
        return withUnsafeBytes(of: body) { Array($0) }
    }

    func read(at offset: UInt64, _ count: Int) throws -> [UInt8] {
        var head = fuse_read_in()
        head.offset = offset
        head.size = UInt32(count)
        return try ask(FuseOperation.read, withUnsafeBytes(of: head) { Array($0) }).payload
    }

    func holds(_ value: UInt8, at offset: UInt64, _ count: Int) throws -> Bool {
        try read(at: offset, count) == [UInt8](repeating: value, count: count)
    }

    func sync() throws -> Int32 { try ask(FuseOperation.sync, [UInt8](repeating: 0, count: 16)).error }

    /// Ends the connection and waits for the server to close the image; whether it could.
    func finish() -> Bool {
        isOpen = false
        close(fd)
        var entry = pollfd(fd: end.fd, events: Int16(POLLIN), revents: 0)
        guard poll(&entry, 1, 60_000) == 1 else { return false }
        return end.take() == [0]
    }
}

@Suite struct WorkerTests {
    private func withImage(
        _ format: ImageFormat, _ size: String, _ body: (PlayedKernel, ImageBuilder) throws -> Void
    ) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.img("create", "-q", "-f", format.rawValue, "image", size)
            try body(try PlayedKernel(builder.path("image"), format), builder)
        }
    }

    @Test(arguments: ImageFormat.allCases)
    func whatIsWrittenIsReadAndInTheImage(format: ImageFormat) throws {
        try withImage(format, "8M") { kernel, builder in
            let data = (0..<65536).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
            for offset in [0, 512, 1 << 20, 8 << 20 - 65536] as [UInt64] {
                let reply = try kernel.ask(FuseOperation.write, PlayedKernel.write(offset, data))
                #expect(reply.error == 0 && reply.payload == [0, 0, 1, 0, 0, 0, 0, 0])
                #expect(try kernel.read(at: offset, 65536) == data)
            }
            #expect(try kernel.sync() == 0)
            #expect(kernel.finish())
            try builder.img("convert", "-f", format.rawValue, "-O", "raw", "image", "after")
            let after = try Data(contentsOf: URL(filePath: builder.path("after")))
            #expect(Array(after[(1 << 20)..<(1 << 20 + 65536)]) == data)
            #expect(Array(after[512..<(512 + 65536)]) == data)
        }
    }

    @Test func everyWriteInFlightIsAnsweredOnce() throws {
        try withImage(.qcow2, "64M") { kernel, _ in
            var sent: Set<UInt64> = []
            for index in 0..<100 {
                let data = [UInt8](repeating: UInt8(index + 1), count: 4096)
                sent.insert(kernel.send(FuseOperation.write, PlayedKernel.write(UInt64(index) * 300_032 & ~511, data)))
            }
            for _ in 0..<100 {
                let reply = try kernel.receive()
                #expect(reply.error == 0 && sent.remove(reply.unique) != nil)
            }
            for index in 0..<100 {
                #expect(try kernel.holds(UInt8(index + 1), at: UInt64(index) * 300_032 & ~511, 4096))
            }
            #expect(kernel.finish())
        }
    }

    @Test(arguments: ImageFormat.allCases)
    func holesAndZerosReadAsZeros(format: ImageFormat) throws {
        try withImage(format, "5G") { kernel, _ in
            let ones = [UInt8](repeating: 1, count: 65536)
            for mode in [HostFile.Allocation.punchHole, HostFile.Allocation.zeroRange] {
                for offset in [0, 3 << 30, 5 << 30 - 65536] as [UInt64] {
                    #expect(try kernel.ask(FuseOperation.write, PlayedKernel.write(offset, ones)).error == 0)
                }
                // All of it but the first sector, more than the engine takes at once.
                let reply = try kernel.ask(
                    FuseOperation.allocate, PlayedKernel.allocate(mode, 512, kernel.size - 512))
                #expect(reply.error == 0 && reply.payload.isEmpty)
                #expect(try kernel.holds(1, at: 0, 512))
                #expect(try kernel.holds(0, at: 512, 65536 - 512))
                for offset in [3 << 30, 5 << 30 - 65536] as [UInt64] {
                    #expect(try kernel.holds(0, at: offset, 65536))
                }
            }
            #expect(kernel.finish())
        }
    }

    @Test func requestsThatMakeNoSenseCostNobodyAnything() throws {
        try withImage(.qcow2, "1M") { (kernel, _) throws in
            let data = [UInt8](repeating: 9, count: 4096)
            #expect(try kernel.ask(FuseOperation.write, PlayedKernel.write(0, data)).error == 0)
            let refused: [(UInt32, [UInt8], Int32)] = [
                (FuseOperation.write, [], EINVAL),
                (FuseOperation.write, PlayedKernel.write(0, data, size: 8192), EINVAL),
                (FuseOperation.write, PlayedKernel.write(0, data, size: UInt32.max), EINVAL),
                (FuseOperation.write, PlayedKernel.write(7, data), EINVAL),
                (FuseOperation.write, PlayedKernel.write(0, Array(data.prefix(100))), EINVAL),
                (FuseOperation.write, PlayedKernel.write(1 << 20, data), ENOSPC),
                (FuseOperation.write, PlayedKernel.write(UInt64.max & ~511, data), ENOSPC),
                (FuseOperation.allocate, [1, 2, 3], EINVAL),
                (FuseOperation.allocate, PlayedKernel.allocate(0, 0, 4096), EOPNOTSUPP),
                (FuseOperation.allocate, PlayedKernel.allocate(3, 0, 2 << 20), EFBIG),
                (FuseOperation.allocate, PlayedKernel.allocate(3, UInt64.max & ~511, UInt64.max & ~511), EFBIG),
                (FuseOperation.setAttributes, [], EINVAL),
            ]
            for (opcode, body, error) in refused { #expect(try kernel.ask(opcode, body).error == error) }
            // These get no answer at all.
            kernel.send(FuseOperation.write, PlayedKernel.write(0, data), length: 99)
            kernel.send(FuseOperation.write, PlayedKernel.write(0, data), cutTo: 20)
            kernel.send(FuseOperation.write, PlayedKernel.write(0, data), cutTo: 1)
            #expect(try kernel.ask(FuseOperation.write, PlayedKernel.write(0, [])).error == 0)
            #expect(try kernel.read(at: 0, 8192) == data + [UInt8](repeating: 0, count: 4096))
            #expect(try kernel.sync() == 0)
            #expect(kernel.finish())
        }
    }
}
