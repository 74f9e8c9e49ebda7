// What a session offers and answers, message by message.
import DiskTypes
import Foundation
import ImageChain
import LinuxIO
import TestKit
import Testing
import VhostUserBlk
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

@Suite("A session")
struct SessionTests {
    @Test func offersItsFeatures() throws {
        let served = try Served()
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk(queues: 3)))
        typealias Bit = VirtioBlk.Feature
        for bit in [
            Bit.segMax, Bit.blockSize, Bit.flush, Bit.topology, Bit.configWriteback, Bit.multiQueue, Bit.discard,
            Bit.writeZeroes, Bit.indirect, Bit.eventIndex, Bit.version1, Bit.ringPacked, Bit.logAll,
            Bit.protocolFeatures,
        ] { #expect(frontend.offered & bit != 0, "bit \(bit.trailingZeroBitCount)") }
        #expect(frontend.offered & Bit.readOnly == 0)
        let wanted: ProtocolFeatures = [
            .multiQueue, .logSharedMemory, .replyAck, .backendRequests, .config, .inflightSharedMemory, .resetDevice,
            .configureMemorySlots, .status,
        ]
        #expect(frontend.offeredProtocol == wanted)
        #expect(frontend.maxQueues == 3)
        #expect(try frontend.number(.getMaxMemorySlots) == 509)
    }

    /// formats/vhost-user/messages.tsv says what each answer is; these are those of 8 bytes.
    @Test(arguments: ["GET_FEATURES", "GET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "GET_MAX_MEM_SLOTS", "SET_LOG_BASE"])
    func answersWithTheTablesPayload(name: String) throws {
        let table = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "../../formats/vhost-user/messages.tsv").standardizedFileURL
        let rows = try String(contentsOf: table, encoding: .utf8).split(separator: "\n").map {
            $0.split(separator: "\t").map(String.init)
        }
        let row = try #require(rows.first { $0[0] == "front-end" && $0[1] == name })
        #expect(row[4] == "u64")
        let request = try #require(UInt32(row[2]).flatMap(FrontendRequest.init(rawValue:)))
        let served = try Served()
        var options = FrontendOptions()
        options.protocolFeatures.insert(.logSharedMemory)
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()), options)
        if request == .setLogBase {
            let log = try SharedMemory("log", count: 4096)
            let description = LogDescription(mmapSize: 4096, mmapOffset: 0)
            try frontend.connection.send(description.message(request), descriptors: [log.fd])
        } else {
            try frontend.connection.send(MessageHeader.bare(request))
        }
        #expect(try frontend.connection.reply(to: request).payload.count == WireNumber.bytes)
    }

    @Test func takesNoFeatureThatWasNotOffered() throws {
        let served = try Served()
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()))
        #expect(throws: FrontendError.refused(.setFeatures, 1)) {
            try frontend.ask(.setFeatures, WireNumber(frontend.features | 1 << 20))
        }
        #expect(throws: FrontendError.refused(.setProtocolFeatures, 1)) {
            try frontend.ask(.setProtocolFeatures, WireNumber(1 << 40))
        }
        #expect(try frontend.number(.getQueueNum) == 1)
    }

    @Test func showsTheDiskInItsConfigurationSpace() throws {
        let served = try Served()
        let frontend = try VhostUserFrontend.connect(
            try FilePath(served.disk(4 << 20, queues: 3) { $0.blockSize = 4096 }))
        #expect(try frontend.capacity() == 4 << 20)
        let all = try frontend.readConfig(count: 256)
        #expect(all[VirtioBlk.Config.queueCount] == 3 && all[VirtioBlk.Config.blockSize + 1] == 16)
        #expect(try frontend.readConfig(offset: 32, count: 4) == Array(all[32..<36]))
    }

    @Test func toleratesTheOldOffsetOfTheConfigurationSpace() throws {
        let served = try Served()
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()))
        #expect(try frontend.readConfig(offset: 0x100, count: 60) == frontend.readConfig(count: 60))
    }

    @Test(arguments: [(200, 100), (257, 1), (255, 2), (0x7fff_ff00, 1)])
    func answersAReadOutsideTheConfigurationSpaceWithNothing(offset: Int, count: Int) throws {
        let served = try Served()
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()))
        let access = ConfigAccess(offset: UInt32(offset), data: Array(repeating: 0, count: count))
        try frontend.connection.tell(.getConfig, access)
        #expect(try frontend.connection.reply(to: .getConfig).payload == [])
        #expect(try frontend.capacity() == 4 << 20)
    }

    /// A write with O_DSYNC and one without differ by what is left to write back.
    @Test func theCacheModeOfTheGuestIsKeptForTheNextConnection() throws {
        let served = try Served()
        let socket = try served.disk()
        let (frontend, clients) = try VhostUserFrontend.running(socket)
        let place = VirtioBlk.Config.writeback
        #expect(try frontend.readConfig(offset: place, count: 1) == [1])
        try frontend.writeConfig(offset: place, [0])
        #expect(try frontend.readConfig(offset: place, count: 1) == [0])
        #expect(try clients[0].perform(.write(sector: 0, Array(repeating: 7, count: 4096))).isOK)
        #expect(throws: FrontendError.refused(.setConfig, 1)) { try frontend.writeConfig(offset: place, [2]) }
        #expect(throws: FrontendError.refused(.setConfig, 1)) { try frontend.writeConfig(offset: 0, [1]) }
        #expect(throws: FrontendError.refused(.setConfig, 1)) { try frontend.writeConfig(offset: place, [1, 0]) }
        frontend.connection.shutDown()
        let next = try VhostUserFrontend.connect(FilePath(socket))
        #expect(try next.readConfig(offset: place, count: 1) == [0])
    }

    @Test func aMigrationWritesTheWholeConfigurationSpace() throws {
        let served = try Served()
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()))
        var all = try frontend.readConfig(count: 60)
        all[VirtioBlk.Config.writeback] = 0
        try frontend.ask(.setConfig, ConfigAccess(offset: 0, flags: ConfigAccess.Purpose.migration, data: all))
        #expect(try frontend.readConfig(offset: VirtioBlk.Config.writeback, count: 1) == [0])
    }

    @Test func givesTheSerialNumber() throws {
        let served = try Served()
        let (_, clients) = try VhostUserFrontend.running(try served.disk { $0.serial = "number-7" })
        let answer = try clients[0].perform(.getID)
        #expect(answer.isOK && answer.data == Array("number-7".utf8) + Array(repeating: 0, count: 12))
    }

    @Test func aReadOnlyDiskIsNotChanged() throws {
        let served = try Served()
        let (frontend, clients) = try VhostUserFrontend.running(try served.disk(writable: false))
        #expect(frontend.features & VirtioBlk.Feature.readOnly != 0)
        let error = RequestStatus.ioError.rawValue
        #expect(try clients[0].perform(.write(sector: 8, Array(repeating: 1, count: 512))).status == error)
        #expect(try clients[0].perform(.discard(sector: 8, count: 8)).status == error)
        #expect(try clients[0].perform(.writeZeroes(sector: 8, count: 8)).status == error)
        #expect(try clients[0].perform(.flush).isOK)
        #expect(number(try clients[0].perform(.read(sector: 8, count: 512)).data) == 8)
    }

    @Test(arguments: [true, false])
    func discardsGiveStorageBackOnlyWhereTheyShould(unmap: Bool) throws {
        let served = try Served()
        let (_, clients) = try VhostUserFrontend.running(try served.disk { $0.discards = unmap })
        #expect(try clients[0].perform(.discard(sector: 128, count: 128)).isOK)
        let data = try clients[0].perform(.read(sector: 128, count: 512)).data
        #expect(number(data) == (unmap ? 0 : 128))
        #expect(number(try clients[0].perform(.read(sector: 127, count: 512)).data) == 127)
        #expect(number(try clients[0].perform(.read(sector: 256, count: 512)).data) == 256)
    }

    @Test func aResetBringsTheDeviceBackToItsBeginning() throws {
        let served = try Served()
        var options = FrontendOptions()
        options.protocolFeatures.formUnion([.status, .resetDevice])
        let (frontend, clients) = try VhostUserFrontend.running(try served.disk(), options)
        #expect(try clients[0].perform(.getID).isOK)
        try frontend.ask(.setStatus, WireNumber(15))
        #expect(try frontend.number(.getStatus) == 15)
        for way in [0, 1] {
            if way == 0 { try frontend.ask(.setStatus, WireNumber(0)) } else { try frontend.ask(.resetDevice) }
            #expect(try frontend.number(.getStatus) == 0)
            clients[0].queue.base = clients[0].driver.resumePosition
            try frontend.start()
            #expect(try clients[0].perform(.getID).isOK)
        }
        #expect(throws: FrontendError.refused(.setStatus, 1)) { try frontend.ask(.setStatus, WireNumber(256)) }
    }

    @Test func severalDisksAreServedAtOnce() throws {
        let served = try Served(workers: 2)
        let sockets = [try served.disk(1 << 20), try served.disk(2 << 20), try served.disk(3 << 20)]
        let all = try sockets.map { try VhostUserFrontend.running($0) }
        for (i, one) in all.enumerated() {
            #expect(try one.frontend.capacity() == UInt64((i + 1) << 20))
            #expect(try one.clients[0].perform(.write(sector: 1, Array(repeating: UInt8(i), count: 512))).isOK)
        }
        for (i, one) in all.enumerated() {
            #expect(try one.clients[0].perform(.read(sector: 1, count: 512)).data.allSatisfy { $0 == UInt8(i) })
        }
    }

    @Test func oneConnectionFollowsTheOther() throws {
        let served = try Served()
        let socket = try served.disk()
        for i in 0..<30 {
            let (frontend, clients) = try VhostUserFrontend.running(socket)
            #expect(number(try clients[0].perform(.read(sector: UInt64(i), count: 512)).data) == i)
            // Half of them leave without a word.
            if i % 2 == 0 { try frontend.stop() }
            frontend.connection.shutDown()
        }
    }

    @Test func aConnectedSocketIsServedUntilItEnds() throws {
        let served = try Served()
        try Files.numbered(served.path("a.raw"), 1 << 20)
        var open = OpenOptions()
        open.format = .raw
        let options = ExportOptions(
            chain: try ImageChain.open(path: FilePath(served.path("a.raw")), options: open), name: "a")
        let pair = try LinuxIO.UnixSocket.Pair()
        let far = OwnedFD(taking: dup(pair.far.raw))
        try served.server.add(options, .connection(LinuxIO.UnixSocket(taking: far)))
        let near = FrontendConnection(
            LinuxIO.UnixSocket(taking: OwnedFD(taking: dup(pair.near.raw))), milliseconds: 5000)
        try near.send(MessageHeader.bare(.getQueueNum))
        #expect(try near.reply(to: .getQueueNum).payload == WireNumber(1).encoded)
        #expect(!served.server.isOver)
        near.shutDown()
        let end = Date(timeIntervalSinceNow: 10)
        while !served.server.isOver, Date() < end { usleep(1000) }
        #expect(served.server.isOver)
    }
}

@Suite("Growth")
struct GrowthTests {
    @Test(arguments: Rings.both)
    func aDiskThatGrewIsAnnouncedAndUsable(rings: Rings) throws {
        let served = try Served()
        let socket = try served.disk(1 << 20)
        var options = rings.options
        options.protocolFeatures.insert(.backendRequests)
        let (frontend, clients) = try VhostUserFrontend.running(socket, options)
        #expect(try frontend.backendRequests?.next(milliseconds: 5000) == .configChange)
        #expect(try frontend.capacity() == 1 << 20)
        let bytes = Array(repeating: UInt8(9), count: 512)
        #expect(try clients[0].perform(.write(sector: 2048, bytes)).status == RequestStatus.ioError.rawValue)
        #expect(truncate(served.path("disk0.raw"), 3 << 20) == 0)
        served.server.refreshSizes()
        #expect(try frontend.backendRequests?.next(milliseconds: 5000) == .configChange)
        #expect(try frontend.capacity() == 3 << 20)
        #expect(try clients[0].perform(.write(sector: 2048, bytes)).isOK)
        #expect(try clients[0].perform(.read(sector: 2048, count: 512)).data == bytes)
        #expect(try clients[0].perform(.read(sector: 6143, count: 512)).isOK)
    }

    @Test func withoutAChannelTheNewSizeIsThereToo() throws {
        let served = try Served()
        let (frontend, clients) = try VhostUserFrontend.running(try served.disk(1 << 20))
        #expect(truncate(served.path("disk0.raw"), 2 << 20) == 0)
        served.server.refreshSizes()
        let end = Date(timeIntervalSinceNow: 10)
        while try clients[0].perform(.read(sector: 4000, count: 512)).isOK == false, Date() < end { usleep(1000) }
        #expect(try frontend.capacity() == 2 << 20)
        #expect(try clients[0].perform(.read(sector: 4000, count: 512)).isOK)
    }
}
