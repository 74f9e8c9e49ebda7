// Why this file exists: a server that is killed takes nothing with it: the record of requests in flight says what the next
// one has to do again, and every request is answered exactly once.
import DiskTypes
import Foundation
import LinuxIO
import TestKit
import Testing
import VhostUserFrontend
import VhostUserWire
import Virtqueue

/// The program under test as a process that can be killed.
final class Program {
    let folder: String
    let server: DiskServer
    let path: String
    let bytes: Int

    init(_ bytes: Int = 4 << 20, queues: Int = 1, options: [String] = []) throws {
        folder = try Scratch.newFolder("program")
        path = "\(folder)/disk.raw"
        self.bytes = bytes
        try Files.numbered(path, bytes)
        server = try DiskServer(
            path, format: "raw", socket: "\(folder)/disk.sock", queues: queues, options: options)
    }
    deinit {
        server.kill()
        try? FileManager.default.removeItem(atPath: folder)
    }

    /// A front-end with a load on all queues, running.
    func load(
        _ options: FrontendOptions, queues: Int, style: LoadStyle
    ) throws -> (frontend: VhostUserFrontend, load: Load) {
        var options = options
        options.memory = [(0, 8 << 20), (0x1_0000_0000, Load.room(lanes: queues, style))]
        let frontend = try VhostUserFrontend.connect(server.socket, options)
        let lanes = try (0..<queues).map { _ in try Lane(frontend) }
        try frontend.start()
        let load = Load(lanes, arena: 0x1_0000_0000, content: try Files.bytes(path), style: style)
        return (frontend, load)
    }
}

@Suite(
    "A server that is killed", .disabled(if: DiskServer.isPeer || DiskServer.missing != nil, "\(Tools.qblkReason)"))
struct KillTests {
    @Test(arguments: Rings.allCases, [1, 3])
    func losesAndRepeatsNothing(rings: Rings, queues: Int) throws {
        let program = try Program(queues: queues, options: ["--workers", "2", "--cache", "writeback"])
        var options = rings.options
        options.protocolFeatures.insert(.inflightSharedMemory)
        var style = LoadStyle()
        style.depth = 24
        style.largest = 32 << 10
        let (frontend, load) = try program.load(options, queues: queues, style: style)
        for round in 0..<8 {
            load.run(100 + load.below(500))
            load.fill()
            usleep(useconds_t(load.below(300)))
            program.server.kill()
            #expect(load.failure == nil, "round \(round)")
            load.collect()
            try program.server.start()
            try frontend.reconnect()
            load.collect()
            for lane in load.lanes { lane.queue.base = lane.driver.resumePosition }
            try frontend.start()
        }
        load.run(200)
        load.drain()
        #expect(load.failure == nil)
        let flush = try frontendFlush(frontend, load)
        #expect(flush)
        #expect(load.matches(try Files.bytes(program.path)), "seed \(load.seed)")
        #expect(program.server.stop()?.exit == 0)
    }

    /// All that was answered is in the file once the rings have stopped.
    private func frontendFlush(_ frontend: VhostUserFrontend, _ load: Load) throws -> Bool {
        try frontend.stop()
        return load.inFlight == 0
    }

    @Test(arguments: Rings.both)
    func aRecordOfGarbageCostsItsRingAndNothingElse(rings: Rings) throws {
        let program = try Program(queues: 2)
        var options = rings.options
        options.protocolFeatures.insert(.inflightSharedMemory)
        let (frontend, clients) = try VhostUserFrontend.running(program.server.socket, options, queues: 2)
        for client in clients { #expect(try client.perform(.read(sector: 1, count: 512)).isOK) }
        try frontend.stop()
        let record = try #require(frontend.inflight)
        // The second queue's part; behind both there is a cache line for the image.
        let part = (Int(record.description.mmapSize) - 128) / 2
        let noise = [UInt8](repeating: 0xa5, count: part)
        #expect(pwrite(record.file.raw, noise, noise.count, off_t(part)) == noise.count)
        try frontend.connection.tell(.setInflightFD, record.description, descriptors: [record.file.raw])
        try frontend.start(clients[0].queue)
        #expect(throws: FrontendError.self) { try frontend.start(clients[1].queue) }
        clients[0].queue.kick.signal()
        #expect(try clients[0].perform(.read(sector: 7, count: 512)).isOK)
    }

    /// A front-end that goes away without a word, in the middle of its requests, and comes back to the same server.
    @Test(arguments: Rings.allCases)
    func aFrontEndThatComesBackWithoutRecordMissesNothing(rings: Rings) throws {
        let program = try Program(queues: 2)
        let (frontend, load) = try program.load(rings.options, queues: 2, style: LoadStyle())
        for _ in 0..<10 {
            load.run(50 + load.below(100))
            load.fill()
            frontend.connection.shutDown()
            try frontend.reconnect()
            load.collect()
            for lane in load.lanes { lane.queue.base = lane.driver.resumePosition }
            try frontend.start()
        }
        load.run(100)
        load.drain()
        #expect(load.failure == nil)
        try frontend.stop()
        #expect(load.matches(try Files.bytes(program.path)))
    }
}
