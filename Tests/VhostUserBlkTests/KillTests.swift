// A server that is killed takes nothing with it: the record of requests in flight says what the next one has to do
// again, and every request is answered exactly once.
import DiskTypes
import Foundation
import LinuxIO
import TestKit
import Testing
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

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
        options.memory = [(0, 8 << 20), (0x1_0000_0000, Load.room(queueDrivers: queues, style))]
        let frontend = try VhostUserFrontend.connect(FilePath(server.socket), options)
        let queueDrivers = try (0..<queues).map { _ in try QueueDriver(frontend) }
        try frontend.start()
        let load = Load(queueDrivers, arena: 0x1_0000_0000, content: try Files.bytes(path), style: style)
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
        for _ in 0..<8 { try killUnder(load, 100 + load.below(500), frontend, program.server) }
        load.run(200)
        load.drain()
        #expect(load.failure == nil)
        let flush = try frontendFlush(frontend, load)
        #expect(flush)
        #expect(load.matches(try Files.bytes(program.path)), "seed \(load.seed)")
        #expect(program.server.stop()?.exit == 0)
    }

    private func killUnder(_ load: Load, _ requests: Int, _ frontend: VhostUserFrontend, _ server: DiskServer) throws {
        load.run(requests)
        load.fill()
        usleep(useconds_t(load.below(300)))
        server.kill()
        #expect(load.failure == nil)
        load.collect()
        try server.start()
        try frontend.reconnect()
        load.collect()
        for queueDriver in load.queueDrivers { queueDriver.queue.base = queueDriver.driver.resumePosition }
        try frontend.start()
    }

    @Test("Long requests in memory, which two threads share", arguments: ["raw", "qcow2"])
    func losesNothingOfLongRequests(format: String) throws {
        let folder = "/dev/shm/killed-\(format)-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (path, size) = ("\(folder)/disk", 24 << 20)
        try Command(["qemu-img", "create", "-q", "-f", format, path, "\(size)"]).succeed()
        let server = try DiskServer(
            path, format: format, socket: "\(folder)/sock", options: ["--workers", "1", "--cache", "writeback"])
        defer { server.kill() }
        var style = LoadStyle()
        (style.depth, style.largest, style.alignment, style.blockSectors) = (6, 1 << 20, 512, 64)
        var options = Rings.splitEvent.options
        options.protocolFeatures.insert(.inflightSharedMemory)
        options.memory = [(0, 8 << 20), (0x1_0000_0000, Load.room(queueDrivers: 1, style))]
        let frontend = try VhostUserFrontend.connect(FilePath(server.socket), options)
        let queueDriver = try QueueDriver(frontend)
        try frontend.start()
        let load = Load([queueDriver], arena: 0x1_0000_0000, content: [UInt8](repeating: 0, count: size), style: style)
        for _ in 0..<20 { try killUnder(load, 10 + load.below(60), frontend, server) }
        load.run(50)
        load.drain()
        try frontend.stop()
        frontend.connection.shutDown()
        #expect(server.stop()?.exit == 0)
        #expect(load.failure == nil)
        if format == "qcow2" { try Command(["qemu-img", "check", "-q", "-f", "qcow2", path]).succeed() }
        try Command(["qemu-img", "convert", "-f", format, "-O", "raw", path, "\(path).out"]).succeed()
        #expect(load.matches(try Files.bytes("\(path).out")), "seed \(load.seed)")
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
        // The server forgets the record of a stopped ring once its answer is out: the next answer says that it has.
        _ = try frontend.number(.getFeatures)
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
            for queueDriver in load.queueDrivers { queueDriver.queue.base = queueDriver.driver.resumePosition }
            try frontend.start()
        }
        load.run(100)
        load.drain()
        #expect(load.failure == nil)
        try frontend.stop()
        #expect(load.matches(try Files.bytes(program.path)))
    }
}
