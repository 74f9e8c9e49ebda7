// A front-end may be broken, or hostile. It may harm its own disk's connection, and nothing else: not the process,
// not the other disks, not the next connection.
import DiskTypes
import Foundation
import LinuxIO
import TestKit
import Testing
import VhostUserBlk
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

/// A message that makes no sense where it comes.
struct Nonsense: CustomTestStringConvertible, Sendable {
    let name: String
    let request: UInt32
    let payload: [UInt8]
    var testDescription: String { name }
    init(_ name: String, _ request: FrontendRequest, _ payload: [UInt8] = []) {
        self.init(name, raw: request.rawValue, payload)
    }
    init(_ name: String, raw: UInt32, _ payload: [UInt8] = []) {
        (self.name, request, self.payload) = (name, raw, payload)
    }
    func bytes(needsReply: Bool) -> [UInt8] {
        words(request, 1 | (needsReply ? 8 : 0), UInt32(payload.count)) + payload
    }

    static let all: [Nonsense] = {
        let region = MemoryRegion(guestAddress: 0, size: 4096, userAddress: 0, mmapOffset: 0)
        var list = [
            Nonsense("an unknown request", raw: 45), Nonsense("request 0", raw: 0),
            Nonsense("the last number there is", raw: .max, Array(repeating: 1, count: 64)),
            Nonsense("features of half a word", .setFeatures, [1, 2, 3, 4]),
            Nonsense("no features", .setFeatures), Nonsense("features not offered", .setFeatures, words(0, 1 << 31)),
            Nonsense("protocol features not offered", .setProtocolFeatures, words(0, 1)),
            Nonsense("a table whose regions are missing", .setMemoryTable, words(3, 0)),
            Nonsense("a table of 9 regions", .setMemoryTable, words(9, 0) + Array(repeating: 0, count: 288)),
            Nonsense("a table without descriptors", .setMemoryTable, MemoryTable([region]).encoded),
            Nonsense("a region without descriptor", .addMemoryRegion, SingleRegion(region).encoded),
            Nonsense("a region to remove that is not there", .removeMemoryRegion, SingleRegion(region).encoded),
            Nonsense("an endless region", .addMemoryRegion, words(0, 0, 0, 0, .max, .max, 0, 0, 0, 0)),
            Nonsense("a status of two bytes", .setStatus, words(256, 0)),
            Nonsense("configuration to nowhere", .setConfig, words(60, 1, 0) + [1]),
            Nonsense("configuration that overflows", .setConfig, words(.max, 1, 0) + [1]),
            Nonsense("a configuration access shorter than it says", .setConfig, words(32, 8, 0) + [1]),
            Nonsense("a record without descriptor", .setInflightFD, words(4096, 0, 0, 0, 1 << 16 | 1)),
            Nonsense("the network's", .sendRARP, words(0, 0)), Nonsense("the MTU", .netSetMTU, words(0, 0)),
            Nonsense("post-copy", .postcopyListen), Nonsense("a graphics socket", .gpuSetSocket),
            Nonsense("an in-band kick", .vringKick, words(0, 0)),
        ]
        for request in [FrontendRequest.setVringNum, .setVringBase, .setVringEnable] {
            list.append(Nonsense("\(request) of no ring", request, words(1, 1)))
            list.append(Nonsense("\(request) of the last ring", request, words(.max, 1)))
            list.append(Nonsense("\(request) too short", request, words(0)))
        }
        list.append(Nonsense("a ring without entries", .setVringNum, words(0, 0)))
        list.append(Nonsense("a ring of 32769 entries", .setVringNum, words(0, 32769)))
        list.append(Nonsense("a ring enabled twice over", .setVringEnable, words(0, 2)))
        list.append(Nonsense("addresses of no ring", .setVringAddress, words(7, 0) + Array(repeating: 0, count: 32)))
        for request in [FrontendRequest.setVringKick, .setVringCall, .setVringErr] {
            list.append(Nonsense("\(request) of no ring", request, words(255, 0)))
            list.append(Nonsense("\(request) without its descriptor", request, words(0, 0)))
        }
        return list
    }()
    /// What owes an answer that cannot be given: the connection ends.
    static let owed = [
        Nonsense("the base of no ring", .getVringBase, words(9, 0)), Nonsense("half a base", .getVringBase, [1]),
        Nonsense("a record for no queues", .getInflightFD, words(0, 0, 0, 0, 0, 0)),
        Nonsense("a record for 65535 queues", .getInflightFD, words(0, 0, 0, 0, .max, 0)),
        Nonsense("half an access", .getConfig, words(0, 8, 0)), Nonsense("a crypto session", .createCryptoSession),
        Nonsense("a shared object", .getSharedObject), Nonsense("device state", .setDeviceStateFD),
        Nonsense("post-copy advice", .postcopyAdvise), Nonsense("the IOTLB", .iotlbMessage),
    ]
}

func words(_ list: UInt32...) -> [UInt8] {
    list.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } }
}

@Suite("A hostile front-end")
struct HostileTests {
    /// Two disks: one for the attacker, one whose user must not notice.
    private final class Stage {
        let served: Served
        let socket: String
        let other: (frontend: VhostUserFrontend, clients: [BlockClient])
        init(workers: Int = 1) throws {
            served = try Served(workers: workers)
            socket = try served.disk()
            other = try VhostUserFrontend.running(try served.disk())
        }
        /// Everybody else is served, and so is the next.
        func expectAlive() throws {
            #expect(number(try other.clients[0].perform(.read(sector: 5, count: 512)).data) == 5)
            let (_, clients) = try VhostUserFrontend.running(socket)
            #expect(number(try clients[0].perform(.read(sector: 6, count: 512)).data) == 6)
        }
    }

    @Test(arguments: Nonsense.all)
    func isRefusedAndGoesOn(nonsense: Nonsense) throws {
        let stage = try Stage()
        let (frontend, clients) = try VhostUserFrontend.running(stage.socket)
        try frontend.connection.send(nonsense.bytes(needsReply: true))
        var head = try receive(frontend, 20)
        #expect(Array(head.prefix(12)) == words(nonsense.request, 5, 8))
        #expect(head.suffix(8).contains { $0 != 0 })
        // The same without asking for an answer: none comes.
        try frontend.connection.send(nonsense.bytes(needsReply: false) + MessageHeader.bare(.getQueueNum))
        head = try receive(frontend, 20)
        #expect(head == WireNumber(1).reply(to: MessageHeader(.getQueueNum, payloadBytes: 0)))
        #expect(try clients[0].perform(.getID).isOK)
        frontend.connection.shutDown()
        try stage.expectAlive()
    }

    @Test(arguments: Nonsense.owed)
    func isPartedWithWhereAnAnswerIsOwed(nonsense: Nonsense) throws {
        let stage = try Stage()
        let (frontend, _) = try VhostUserFrontend.running(stage.socket)
        try frontend.connection.send(nonsense.bytes(needsReply: false))
        #expect(frontend.connection.isClosed(wait: 5000))
        try stage.expectAlive()
    }

    private func receive(_ frontend: VhostUserFrontend, _ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var entry = pollfd(fd: frontend.connection.raw, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, 5000) > 0 else { throw TestFailure("no answer") }
            let part = try DescriptorMessage.receive(
                limit: count - bytes.count, descriptors: 8, over: frontend.connection.raw)
            if part.bytes.isEmpty { throw TestFailure("the connection ended") }
            bytes += part.bytes
        }
        return bytes
    }

    @Test(arguments: [
        words(1, 2, 0), words(1, 0, 0), words(1, 1, 4097), words(1, 1, .max), words(1, 5, 0),
        Array("GET / HTTP/1.1\r\n\r\n".utf8),
    ])
    func isPartedWithWhenItsHeadersAreNone(bytes: [UInt8]) throws {
        let stage = try Stage()
        let frontend = try VhostUserFrontend.connect(FilePath(stage.socket))
        try frontend.connection.send(bytes)
        #expect(frontend.connection.isClosed(wait: 5000))
        try stage.expectAlive()
    }

    @Test(arguments: [1, 11, 12, 15, 19])
    func mayEndInsideAMessage(count: Int) throws {
        let stage = try Stage()
        let frontend = try VhostUserFrontend.connect(FilePath(stage.socket))
        try frontend.connection.send(Array(WireNumber(0).message(.setFeatures).prefix(count)))
        shutdown(frontend.connection.raw, Int32(SHUT_WR))
        #expect(frontend.connection.isClosed(wait: 5000))
        try stage.expectAlive()
    }

    @Test func maySendItsMessagesByteByByte() throws {
        let stage = try Stage()
        let frontend = try VhostUserFrontend.connect(FilePath(stage.socket))
        for byte in MessageHeader.bare(.getQueueNum) { try frontend.connection.send([byte]) }
        #expect(try frontend.connection.reply(to: .getQueueNum).payload == WireNumber(1).encoded)
    }

    /// It asks and asks and takes no answer: then it waits, and the server's end does not.
    @Test func mayFloodWithoutReading() throws {
        let stage = try Stage()
        let frontend = try VhostUserFrontend.connect(FilePath(stage.socket))
        _ = fcntl(frontend.connection.raw, F_SETFL, O_NONBLOCK)
        let flood = (0..<200).flatMap { _ in MessageHeader.bare(.getFeatures) }
        var sent = 0
        for _ in 0..<200_000 {
            let count = send(frontend.connection.raw, flood, flood.count, Int32(MSG_NOSIGNAL))
            if count < 0 {
                if errno != EAGAIN { break }
                // Full in both directions for good?
                usleep(20_000)
                if send(frontend.connection.raw, flood, flood.count, Int32(MSG_NOSIGNAL)) < 0 { break }
            } else {
                sent += count
            }
        }
        #expect(sent > 0)
        #expect(number(try stage.other.clients[0].perform(.read(sector: 5, count: 512)).data) == 5)
        let ended = Date()
        stage.served.stop()
        #expect(Date().timeIntervalSince(ended) < 5)
    }

    @Test func isNotWrittenAboutForEver() throws {
        let stage = try Stage()
        let frontend = try VhostUserFrontend.connect(FilePath(stage.socket))
        for _ in 0..<1000 { try frontend.connection.send(Nonsense.all[0].bytes(needsReply: false)) }
        #expect(try frontend.number(.getQueueNum) == 1)
        #expect(stage.served.lines.count("refused") < 100)
    }

    /// The channel for the server's own messages is never read, or is something else.
    @Test(arguments: [true, false]) func mayNotReadItsChannel(isSocket: Bool) throws {
        let stage = try Stage()
        var options = FrontendOptions()
        options.protocolFeatures.insert(.backendRequests)
        let (frontend, clients) = try VhostUserFrontend.running(stage.socket, options)
        let pipe = try EventFD()
        if !isSocket { try frontend.ask(.setBackendRequestFD, descriptors: [pipe.raw]) }
        for i in 1...3000 {
            guard truncate(stage.served.path("disk0.raw"), (4 << 20) + off_t(i) * 512) == 0 else { break }
            stage.served.server.refreshSizes()
            if i % 16 == 0 { #expect(try frontend.number(.getQueueNum) == 1) }
        }
        #expect(try clients[0].perform(.getID).isOK)
        let ended = Date()
        stage.served.stop()
        #expect(Date().timeIntervalSince(ended) < 5)
    }

    @Test(arguments: [FrontendRequest.setVringKick, .setVringCall, .setVringErr])
    func handsOverEventDescriptorsThatAreNone(request: FrontendRequest) throws {
        let stage = try Stage()
        let (frontend, clients) = try VhostUserFrontend.running(stage.socket)
        var pipes: [Int32] = [-1, -1]
        #expect(pipe(&pipes) == 0)
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        let disk = open(stage.served.path("disk0.raw"), O_RDWR | O_CLOEXEC)
        defer { for fd in pipes + [null, disk] { close(fd) } }
        for fd in [pipes[0], pipes[1], null, disk, frontend.connection.raw] {
            #expect(throws: FrontendError.refused(request, 1)) {
                try frontend.ask(request, VringEvent(index: 0), descriptors: [fd])
            }
        }
        #expect(try clients[0].perform(.getID).isOK)
    }

    @Test func sharesAFileThatIsTooShort() throws {
        let stage = try Stage()
        let (frontend, _) = try VhostUserFrontend.running(stage.socket)
        let memory = try SharedMemory("short", count: 1 << 20)
        for (size, offset) in [(2 << 20, 0), (1 << 20, 4096), (4096, 1 << 20), (1 << 62, 0), (4096, 1 << 62)] {
            let region = MemoryRegion(
                guestAddress: 1 << 40, size: UInt64(size), userAddress: 0, mmapOffset: UInt64(offset))
            #expect(throws: FrontendError.refused(.addMemoryRegion, 1)) {
                try frontend.ask(.addMemoryRegion, SingleRegion(region), descriptors: [memory.fd])
            }
        }
        let event = try EventFD()
        let region = MemoryRegion(guestAddress: 1 << 40, size: 4096, userAddress: 0, mmapOffset: 0)
        #expect(throws: FrontendError.refused(.addMemoryRegion, 1)) {
            try frontend.ask(.addMemoryRegion, SingleRegion(region), descriptors: [event.raw])
        }
        try stage.other.frontend.stop()
    }

    @Test func sharesMemoryThatOverlaps() throws {
        let stage = try Stage()
        let (frontend, clients) = try VhostUserFrontend.running(stage.socket)
        let memory = try SharedMemory("overlap", count: 1 << 20)
        let first = frontend.memory.regions[0].guestAddress
        for guest in [first, first + 4096, first - 4096] {
            let region = MemoryRegion(guestAddress: guest, size: 1 << 20, userAddress: 0, mmapOffset: 0)
            #expect(throws: FrontendError.refused(.addMemoryRegion, 1)) {
                try frontend.ask(.addMemoryRegion, SingleRegion(region), descriptors: [memory.fd])
            }
        }
        #expect(try clients[0].perform(.getID).isOK)
    }

    /// A ring that waits for a region that has not come yet does not spoil those that come before it.
    @Test func aRingMayBeThereBeforeItsMemory() throws {
        let stage = try Stage()
        var options = FrontendOptions()
        options.protocolFeatures.insert(.configureMemorySlots)
        options.memory = [(0, 1 << 20), (0x1_0000_0000, 16 << 20)]
        let frontend = try VhostUserFrontend.connect(FilePath(stage.socket), options)
        let client = try BlockClient(frontend, region: 1)
        try frontend.ask(.setFeatures, WireNumber(frontend.features))
        try frontend.start(client.queue)
        for (region, fd) in zip(frontend.memory.regions, frontend.memory.descriptors) {
            try frontend.ask(.addMemoryRegion, SingleRegion(region), descriptors: [fd])
        }
        client.queue.kick.signal()
        #expect(try client.perform(.getID).isOK)
    }

    @Test func aRunningRingIsNotDescribedAnew() throws {
        let stage = try Stage()
        let (frontend, clients) = try VhostUserFrontend.running(stage.socket)
        #expect(throws: FrontendError.refused(.setVringNum, 1)) {
            try frontend.ask(.setVringNum, VringState(index: 0, num: 64))
        }
        #expect(throws: FrontendError.refused(.setVringBase, 1)) {
            try frontend.ask(.setVringBase, VringState(index: 0, num: 7))
        }
        let old = frontend.address(of: clients[0].queue)
        let other = VringAddress(
            index: 0, descriptors: old.descriptors + 16, used: old.used, avail: old.avail)
        #expect(throws: FrontendError.refused(.setVringAddress, 1)) { try frontend.ask(.setVringAddress, other) }
        #expect(throws: FrontendError.refused(.setFeatures, 1)) {
            try frontend.ask(.setFeatures, WireNumber(frontend.features & ~VirtioBlk.Feature.eventIndex))
        }
        #expect(try clients[0].perform(.getID).isOK)
    }
}
