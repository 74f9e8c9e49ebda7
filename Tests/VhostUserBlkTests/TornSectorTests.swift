// A disk writes a sector whole or not at all, and guests' journals count on it. A server that copies into mapped
// pages could be stopped by SIGKILL inside one.
import DiskTypes
import Foundation
import LinuxIO
import TestKit
import Testing
import VhostUserFrontend
import Virtqueue
import VirtqueueMock
import SystemPackage

@Suite(
    "A server that is killed while it writes",
    .disabled(if: DiskServer.isPeer || DiskServer.missing != nil, "\(Tools.qblkReason)"))
struct TornSectorTests {
    private static let size = 8 << 20
    private static let data: UInt64 = 0x1_0000_0000

    /// The longest ones are moved by two threads.
    @Test(
        "Each sector is old or new",
        arguments: [("/dev/shm", 64 << 10), (Scratch.root, 64 << 10), ("/dev/shm", 1 << 20)])
    func sectorsAreWhole(place: String, length: Int) throws {
        let folder = "\(place)/torn-\(length)-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let path = "\(folder)/disk.raw"
        try Data(repeating: 0, count: Self.size).write(to: URL(filePath: path))
        let server = try DiskServer(
            path, format: "raw", socket: "\(folder)/disk.sock", options: ["--workers", "1", "--cache", "writeback"])
        defer { server.kill() }
        var interrupted = 0
        for round in 1...60 {
            if round > 1 { try server.start() }
            try writeAndKill(server, UInt8(round), length)
            let bytes = try Files.bytes(path)
            let torn = tornSectors(bytes)
            #expect(torn.isEmpty, "round \(round): sectors \(torn.prefix(5)) hold parts of two writes")
            let new = stride(from: 0, to: Self.size, by: 512).count { bytes[$0] == UInt8(round) }
            if new > 0, new < Self.size / 512 { interrupted += 1 }
        }
        #expect(interrupted > 5, "the server was hardly ever killed while it wrote")
    }

    /// Writes the whole disk, all at once, and kills the server meanwhile.
    private func writeAndKill(_ server: DiskServer, _ byte: UInt8, _ length: Int) throws {
        var options = FrontendOptions()
        options.memory = [(0, 8 << 20), (Self.data, length)]
        let frontend = try VhostUserFrontend.connect(FilePath(server.socket), options)
        let queueDriver = try QueueDriver(frontend, tableEntries: 4)
        try frontend.start()
        queueDriver.memory.fill(byte, length, at: Self.data)
        for part in 0..<Self.size / length {
            let header = try #require(queueDriver.memory.allocate(17))
            queueDriver.memory.putHeader(
                type: VirtioBlk.RequestType.write, sector: UInt64(part * length / 512), at: header)
            let chain = [
                MockBuffer(header, 16, isWritable: false),
                MockBuffer(Self.data, UInt32(length), isWritable: false),
                MockBuffer(header + 16, 1, isWritable: true),
            ]
            guard queueDriver.driver.publish(chain, indirect: queueDriver.isIndirectAgreed) != nil else { break }
        }
        queueDriver.kick()
        // It has begun when the first answers come; all of it takes about two milliseconds.
        var looks = 0
        while queueDriver.driver.nextUsedBuffer() == nil, looks < 20_000 {
            usleep(50)
            looks += 1
        }
        usleep(UInt32.random(in: 0...1200))
        server.kill()
        frontend.connection.shutDown()
    }

    private func tornSectors(_ bytes: [UInt8]) -> [Int] {
        bytes.withUnsafeBytes { all in
            guard let base = all.baseAddress else { return [] }
            return (0..<all.count / 512).filter { memcmp(base + $0 * 512, base + $0 * 512 + 1, 511) != 0 }
        }
    }
}
