// A front-end that only our own back-end understands proves nothing. Every request goes to QEMU's storage daemon, and
// what it wrote is looked for in its file.
import DiskTypes
import Foundation
import TestKit
import Testing
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

@Suite("Front-end against qemu-storage-daemon", .enabled(if: StorageDaemon.isThere, "\(StorageDaemon.reason)"))
struct StorageDaemonTests {
    /// A disk of 8 MiB in which every sector begins with its number.
    final class Disk {
        let path: String
        let daemon: StorageDaemon
        static let bytes = 8 << 20

        init(queues: Int = 1, writable: Bool = true) throws {
            path = try Scratch.newFile("disk")
            var data = Data(count: Disk.bytes)
            for sector in 0..<Disk.bytes / 512 {
                data[sector * 512] = UInt8(truncatingIfNeeded: sector)
                data[sector * 512 + 1] = UInt8(truncatingIfNeeded: sector >> 8)
            }
            try data.write(to: URL(filePath: path))
            daemon = try StorageDaemon(path, queues: queues, writable: writable)
        }
        func bytes(at offset: Int, _ count: Int) throws -> [UInt8] {
            let file = try FileHandle(forReadingFrom: URL(filePath: path))
            try file.seek(toOffset: UInt64(offset))
            return Array(try file.read(upToCount: count) ?? Data())
        }
    }

    /// Rings as they can be cut, one each: how a request reaches the device.
    enum Rings: String, CaseIterable { case plain, indirect, eventIndex, indirectAndEventIndex }

    static func options(_ rings: Rings) -> FrontendOptions {
        var options = FrontendOptions()
        options.indirect = rings == .indirect || rings == .indirectAndEventIndex
        options.eventIndex = rings == .eventIndex || rings == .indirectAndEventIndex
        return options
    }

    @Test("reads give the file's bytes", arguments: Rings.allCases)
    func reads(rings: Rings) throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket), Self.options(rings))
        let client = try BlockClient(frontend)
        try frontend.start()
        for sector in [UInt64(0), 1, 777, UInt64(Disk.bytes / 512 - 8)] {
            let answer = try client.perform(.read(sector: sector, count: 4096))
            #expect(answer.isOK && answer.written == 4097)
            #expect(try answer.data == disk.bytes(at: Int(sector) * 512, 4096))
        }
        try frontend.stop()
    }

    @Test("writes reach the file after a flush", arguments: Rings.allCases)
    func writes(rings: Rings) throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket), Self.options(rings))
        let client = try BlockClient(frontend)
        try frontend.start()
        let bytes = (0..<8192).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ 5) }
        #expect(try client.perform(.write(sector: 100, bytes)).isOK)
        #expect(try client.perform(.flush).isOK)
        #expect(try disk.bytes(at: 51200, 8192) == bytes)
        #expect(try client.perform(.read(sector: 100, count: 8192)).data == bytes)
    }

    @Test("the serial number comes as 20 bytes")
    func getID() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let client = try BlockClient(frontend)
        try frontend.start()
        let answer = try client.perform(.getID)
        #expect(answer.isOK && answer.data.starts(with: "vhost_user_blk".utf8))
    }

    @Test("write zeroes leaves zeros, and discard is done")
    func zeroes() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let client = try BlockClient(frontend)
        try frontend.start()
        #expect(try client.perform(.writeZeroes(sector: 8, count: 8)).isOK)
        #expect(try client.perform(.discard(sector: 16, count: 8)).isOK)
        #expect(try client.perform(.read(sector: 8, count: 4096)).data.allSatisfy { $0 == 0 })
        #expect(try client.perform(.read(sector: 24, count: 512)).data == disk.bytes(at: 24 * 512, 512))
    }

    @Test("a request outside the disk is an I/O error")
    func outside() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let client = try BlockClient(frontend)
        try frontend.start()
        #expect(try client.perform(.read(sector: 1 << 40, count: 512)).status == RequestStatus.ioError.rawValue)
        #expect(try client.perform(.read(sector: 0, count: 512)).isOK)
    }

    @Test("the configuration space has the disk's size and queues")
    func config() throws {
        let disk = try Disk(queues: 2)
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        #expect(try frontend.capacity() == UInt64(Disk.bytes))
        #expect(frontend.maxQueues == 2)
        let config = try frontend.readConfig()
        #expect(config[VirtioBlk.Config.queueCount] == 2)
    }

    @Test("the write cache can be switched off")
    func writeback() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        try #require(frontend.features & VirtioBlk.Feature.configWriteback != 0)
        try frontend.writeConfig(offset: VirtioBlk.Config.writeback, [0])
        #expect(try frontend.readConfig(offset: VirtioBlk.Config.writeback, count: 1) == [0])
    }

    @Test("a read-only export says so")
    func readOnly() throws {
        let disk = try Disk(writable: false)
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let client = try BlockClient(frontend)
        try frontend.start()
        #expect(frontend.features & VirtioBlk.Feature.readOnly != 0)
        #expect(try client.perform(.write(sector: 0, Array(repeating: 1, count: 512))).isOK == false)
        #expect(try client.perform(.read(sector: 0, count: 512)).isOK)
    }

    @Test("several requests are in flight at once, on two queues")
    func several() throws {
        let disk = try Disk(queues: 2)
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let clients = [try BlockClient(frontend), try BlockClient(frontend)]
        try frontend.start()
        var out: [(client: BlockClient, id: UInt16, sector: Int)] = []
        for i in 0..<60 {
            let client = clients[i % 2]
            out.append((client, try client.begin(.read(sector: UInt64(i * 100), count: 1024)), i * 100))
        }
        for one in out {
            #expect(try one.client.finish(one.id).data == disk.bytes(at: one.sector * 512, 1024))
        }
    }

    @Test("buffers cut in pieces are one request", arguments: [2, 3, 6])
    func pieces(segments: Int) throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let client = try BlockClient(frontend)
        try frontend.start()
        var read = ClientRequest.read(sector: 40, count: 6144)
        read.segments = segments
        #expect(try client.perform(read).data == disk.bytes(at: 40 * 512, 6144))
    }

    @Test("rings in the second region of memory, regions one by one", arguments: [false, true])
    func regions(oneByOne: Bool) throws {
        let disk = try Disk()
        var options = FrontendOptions()
        options.memory = [(0, 1 << 20), (0x8000_0000, 16 << 20)]
        options.oneRegionAtATime = oneByOne
        options.protocolFeatures.insert(.configureMemorySlots)
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket), options)
        #expect(!oneByOne || frontend.protocolFeatures.contains(.configureMemorySlots))
        let client = try BlockClient(frontend, region: 1)
        try frontend.start()
        #expect(try client.perform(.read(sector: 9, count: 512)).data == disk.bytes(at: 9 * 512, 512))
    }

    @Test("a stopped queue goes on where it stopped")
    func restart() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let client = try BlockClient(frontend)
        try frontend.start()
        for _ in 0..<3 { #expect(try client.perform(.read(sector: 1, count: 512)).isOK) }
        try frontend.stop()
        #expect(client.queue.base == 3)
        try frontend.start()
        #expect(try client.perform(.read(sector: 2, count: 512)).data == disk.bytes(at: 1024, 512))
    }

    @Test("a second session follows the first, with its rings")
    func reconnect() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        let client = try BlockClient(frontend)
        try frontend.start()
        #expect(try client.perform(.read(sector: 1, count: 512)).isOK)
        frontend.connection.shutDown()
        #expect(frontend.connection.isClosed(wait: 5000))
        client.queue.base = client.driver.resumePosition
        try frontend.reconnect()
        try frontend.start()
        #expect(try client.perform(.read(sector: 3, count: 512)).data == disk.bytes(at: 1536, 512))
    }

    @Test("packed rings, which it lacks, are an error that says so")
    func packed() throws {
        let disk = try Disk()
        var options = FrontendOptions()
        options.packed = true
        #expect(throws: FrontendError.lacks("packed rings")) {
            try VhostUserFrontend.connect(FilePath(disk.daemon.socket), options)
        }
    }

    @Test("a message that breaks the protocol ends the session")
    func hostile() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        try frontend.connection.send([1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
        #expect(frontend.connection.isClosed(wait: 5000))
        #expect(throws: FrontendError.self) { try frontend.number(.getFeatures) }
    }

    @Test("the process behind the socket is known")
    func peer() throws {
        let disk = try Disk()
        let frontend = try VhostUserFrontend.connect(FilePath(disk.daemon.socket))
        #expect(frontend.connection.peer == disk.daemon.pid)
    }
}
