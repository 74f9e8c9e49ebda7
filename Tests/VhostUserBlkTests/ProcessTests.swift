// The back-end as a process: how it ends, what it inherits, what it refuses to share, and what it keeps open after
// front-ends have done their worst.
import DiskTypes
import Foundation
import LinuxIO
import TestKit
import Testing
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import VirtqueueMock
import SystemPackage

private let isMissing = DiskServer.isPeer || DiskServer.missing != nil

@Suite("The serving process", .disabled(if: isMissing, "\(Tools.qblkReason)"))
struct ProcessTests {
    @Test(arguments: Rings.both, ["none", "writeback"])
    func endsInOrderUnderLoad(rings: Rings, cache: String) throws {
        for _ in 0..<3 {
            let program = try Program(queues: 2, options: ["--cache", cache])
            let (_, load) = try program.load(rings.options, queues: 2, style: LoadStyle())
            load.run(200)
            load.fill()
            let end = try #require(program.server.stop())
            #expect(end.exit == 0 && end.errorLines.isEmpty, "\(end)")
            load.collect()
            #expect(load.failure == nil)
            #expect(load.matches(try Files.bytes(program.path), exceptInFlight: true), "seed \(load.seed)")
        }
    }

    @Test func replacesADeadServersSocketAndNoLivingOnes() throws {
        let program = try Program()
        try Files.numbered("\(program.folder)/other.raw", 1 << 20)
        let other = try qblk(
            "serve", "\(program.folder)/other.raw", "-f", "raw", "--socket-path", program.server.socket, deadline: 10)
        #expect(other.exit != 0 && other.errorLines.count == 1 && !other.timedOut, "\(other)")
        let (_, clients) = try VhostUserFrontend.running(program.server.socket)
        #expect(try clients[0].perform(.getID).isOK)
        program.server.kill()
        #expect(access(program.server.socket, F_OK) == 0)
        try program.server.start()
        let (_, next) = try VhostUserFrontend.running(program.server.socket)
        #expect(try next[0].perform(.getID).isOK)
        #expect(program.server.stop()?.exit == 0)
        #expect(access(program.server.socket, F_OK) != 0)
    }

    @Test func isTheOnlyWriterOfItsImage() throws {
        let program = try Program()
        let second = try qblk(
            "serve", program.path, "-f", "raw", "--socket-path", "\(program.folder)/second.sock", deadline: 10)
        #expect(second.exit != 0 && second.errorLines.count == 1 && !second.timedOut, "\(second)")
        let (_, clients) = try VhostUserFrontend.running(program.server.socket)
        #expect(try clients[0].perform(.getID).isOK)
    }

    /// A loop device whose file finds no room takes writes, and loses them when they are written back.
    @Test(.enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    func saysByItsExitCodeThatSomethingMayBeLost() throws {
        try Scratch.withFolder("lost") { folder in
            try Command(["mount", "-t", "tmpfs", "-o", "size=1M", "none", folder]).succeed()
            defer { _ = try? Command(["umount", "-l", folder]).run() }
            try Command(["truncate", "-s", "8M", "\(folder)/file"]).succeed()
            let loop = try Command(["losetup", "-f", "--show", "\(folder)/file"]).succeed().output
                .trimmingCharacters(in: .whitespacesAndNewlines)
            defer { _ = try? Command(["losetup", "-d", loop]).run() }
            let socket = "\(try Scratch.newFolder("lost-socket"))/s"
            let server = try DiskServer(loop, format: "raw", socket: socket, options: ["--cache", "writeback"])
            let (frontend, clients) = try VhostUserFrontend.running(socket)
            for i in 0..<4 {
                #expect(try clients[0].perform(.write(sector: UInt64(i) << 11, noise(1 << 20))).isOK)
            }
            #expect(try !clients[0].perform(.flush).isOK)
            frontend.connection.shutDown()
            let end = try #require(server.stop())
            #expect(end.exit == 1 && end.errors.contains("what was written last may be lost"), "\(end)")
        }
    }

    private func noise(_ count: Int) -> [UInt8] {
        var noise = SeededRandom(5)
        return Array(noise.bytes(count))
    }

    /// The name of a killed server's image leads to another file: the VM gets no byte of it, and its own disk back with it.
    @Test(arguments: ["raw", "qcow2"])
    func neverServesAnotherFileAfterAKill(format: String) throws {
        let program = try Program(queues: 1)
        let folder = program.folder
        for name in ["image", "other"] {
            try Command(["qemu-img", "create", "-q", "-f", format, "\(folder)/\(name)", "4M"]).succeed()
        }
        let server = try DiskServer("\(folder)/image", format: format, socket: "\(folder)/named.sock")
        var options = FrontendOptions()
        options.protocolFeatures.insert(.inflightSharedMemory)
        let (frontend, clients) = try VhostUserFrontend.running(server.socket, options)
        #expect(try clients[0].perform(.write(sector: 8, [UInt8](repeating: 7, count: 512))).isOK)
        server.kill()
        try Command(["sh", "-c", "mv image mine; mv other image"], in: folder).succeed()
        try server.start()
        try frontend.reconnect()
        clients[0].queue.base = clients[0].driver.resumePosition
        #expect(throws: FrontendError.self) { try frontend.start() }
        #expect(frontend.connection.isClosed())
        let end = try #require(server.stop())
        #expect(end.errors.contains("the VM's disk is another file (inode"), "\(end)")
        // With its name back the disk is there, unflushed writes and all; and when its server has ended in order, another
        // file may follow.
        try Command(["sh", "-c", "mv image other; mv mine image"], in: folder).succeed()
        try server.start()
        try frontend.reconnect()
        try frontend.start()
        let answer = try clients[0].perform(.read(sector: 8, count: 512))
        #expect(answer.isOK && answer.data == [UInt8](repeating: 7, count: 512))
        #expect(server.stop()?.exit == 0)
        try Command(["mv", "other", "image"], in: folder).succeed()
        try server.start()
        try frontend.reconnect()
        clients[0].queue.base = clients[0].driver.resumePosition
        try frontend.start()
        #expect(try clients[0].perform(.read(sector: 8, count: 512)).data == [UInt8](repeating: 0, count: 512))
    }

    @Test(arguments: [true, false])
    func servesAnInheritedSocket(listens: Bool) throws {
        let folder = try Scratch.newFolder("inherited")
        try Files.numbered("\(folder)/a.raw", 1 << 20)
        let listener = try LinuxIO.UnixSocket.listen("\(folder)/a.sock")
        // Connected first: an inherited connection has its front-end.
        let frontend: VhostUserFrontend?
        let inherited: Int32
        var accepted: Int32 = -1
        var connected: FrontendConnection?
        if listens {
            inherited = dup(listener.raw)
            frontend = nil
        } else {
            connected = FrontendConnection(try LinuxIO.UnixSocket.connect("\(folder)/a.sock"), milliseconds: 5000)
            accepted = accept(listener.raw, nil, nil)
            inherited = accepted
            frontend = nil
        }
        _ = frontend
        var server = try Command([
            Tools.qblk, "serve", "\(folder)/a.raw", "-f", "raw", "--fd", "\(inherited)",
        ]).spawn()
        close(inherited)
        if listens {
            let (frontend, clients) = try VhostUserFrontend.running("\(folder)/a.sock")
            #expect(number(try clients[0].perform(.read(sector: 9, count: 512)).data) == 9)
            frontend.connection.shutDown()
            let (_, next) = try VhostUserFrontend.running("\(folder)/a.sock")
            #expect(number(try next[0].perform(.read(sector: 9, count: 512)).data) == 9)
            kill(server.pid, SIGTERM)
        } else if let connected {
            try connected.send(MessageHeader.bare(.getQueueNum))
            #expect(try connected.reply(to: .getQueueNum).payload == WireNumber(16).encoded)
            // The end of the only connection is the end of the server.
            connected.shutDown()
        }
        let end = server.wait(deadline: 20)
        #expect(end.exit == 0, "\(end)")
    }

    private func descriptors(_ pid: Int32) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd").compactMap {
            try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(pid)/fd/\($0)")
        }.map { $0.hasPrefix("socket:") ? "socket" : $0 }.sorted()
    }

    @Test func keepsNoDescriptorOfItsFrontEnds() throws {
        let program = try Program(queues: 2)
        let (frontend, _) = try VhostUserFrontend.running(program.server.socket)
        let pid = try #require(frontend.connection.peer)
        frontend.connection.shutDown()
        // A connection that has answered once is as settled as it gets.
        func settled() throws -> [String] {
            let last = try VhostUserFrontend.connect(FilePath(program.server.socket))
            #expect(try last.number(.getQueueNum) == 2)
            return try descriptors(pid)
        }
        let before = try settled()
        let event = try EventFD()
        let eight = Array(repeating: event.raw, count: 8)
        for round in 0..<40 {
            var options = FrontendOptions()
            options.protocolFeatures.formUnion([.inflightSharedMemory, .backendRequests, .logSharedMemory])
            let (frontend, clients) = try VhostUserFrontend.running(program.server.socket, options)
            #expect(try clients[0].perform(.getID).isOK)
            let log = LogDescription(mmapSize: 4096, mmapOffset: 0)
            let pages = try SharedMemory("log", count: 4096)
            try frontend.ask(.setLogBase, log, descriptors: [pages.fd])
            // With descriptors where there are none, too many, and of a kind that is refused.
            let bad: [[UInt8]] = [
                MessageHeader.bare(.getFeatures), WireNumber(0).message(.setFeatures), MessageHeader.bare(.setOwner),
                VringEvent(index: 0).message(.setVringKick), VringEvent(index: 9).message(.setVringCall),
                MemoryTable(frontend.memory.regions).message(.setMemoryTable), Nonsense.all[0].bytes(needsReply: true),
                Array(MessageHeader.bare(.getFeatures).prefix(5)),
            ]
            try frontend.connection.send(bad[round % bad.count], descriptors: eight)
            _ = frontend.connection.isClosed(wait: 20)
        }
        #expect(try settled() == before)
    }

    /// The other end of a connection is half closed, or is closed with requests in flight.
    @Test func survivesEveryWayToPart() throws {
        let program = try Program(queues: 2)
        for round in 0..<20 {
            let (frontend, load) = try program.load(Rings.both[round % 2].options, queues: 2, style: reading)
            load.run(30)
            load.fill()
            shutdown(frontend.connection.raw, Int32([SHUT_WR, SHUT_RD, SHUT_RDWR][round % 3]))
            if round % 3 == 1 { try? frontend.connection.send(MessageHeader.bare(.getFeatures)) }
        }
        let (_, clients) = try VhostUserFrontend.running(program.server.socket)
        #expect(try clients[0].perform(.getID).isOK)
        #expect(program.server.stop()?.exit == 0)
    }
    private var reading: LoadStyle {
        var style = LoadStyle()
        style.writes = false
        return style
    }

    /// Guest memory in a file that can be cut short, with rings and buffers in it.
    @Test(arguments: [Rings.splitEvent, .packedEvent], ["none", "writeback"])
    func survivesMemoryThatIsCutShort(rings: Rings, cache: String) throws {
        let folder = try Scratch.newFolder("cut")
        try Files.numbered("\(folder)/b.raw", 1 << 20)
        let program = try Program(options: [
            "--workers", "1", "--cache", cache, "--export",
            "image=\(folder)/b.raw,format=raw,socket-path=\(folder)/b.sock",
        ])
        // The program waits for the socket of its first export only.
        for _ in 0..<200 where access("\(folder)/b.sock", F_OK) != 0 { usleep(50_000) }
        let (_, victim) = try VhostUserFrontend.running("\(folder)/b.sock")
        for round in 0..<6 {
            let attacker = try CutMemory(program.server.socket, rings, folder)
            for i in 0..<64 { attacker.publish(i) }
            attacker.kick()
            if round % 2 == 0 { usleep(useconds_t(round * 50)) }
            attacker.cut(to: [0, 4096, 1 << 20][round % 3])
            for _ in 0..<20 {
                attacker.kick()
                #expect(number(try victim[0].perform(.read(sector: 5, count: 512)).data) == 5)
            }
            if round < 3 { try attacker.stop() }
        }
        let (_, clients) = try VhostUserFrontend.running(program.server.socket)
        #expect(try clients[0].perform(.getID).isOK)
        #expect(program.server.stop()?.exit == 0)
    }
}

/// A front-end whose guest memory is a plain file: nothing seals it.
private final class CutMemory {
    private let file: Int32
    private let host: UnsafeMutableRawPointer
    private let frontend: VhostUserFrontend
    private let queueDriver: QueueDriver
    private let memory: DriverMemory
    private let driver: MockDriver
    private static let bytes = 8 << 20

    init(_ socket: String, _ rings: Rings, _ folder: String) throws {
        let path = "\(folder)/memory"
        file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        unlink(path)
        guard ftruncate(file, off_t(Self.bytes)) == 0,
            let host = mmap(nil, Self.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), host != MAP_FAILED
        else { throw TestFailure("no memory") }
        self.host = host
        let user = UInt64(UInt(bitPattern: host))
        memory = DriverMemory(adopting: [
            GuestRegion(guest: GuestAddress(0), size: UInt64(Self.bytes), user: user, host: host)
        ])
        var options = rings.options
        options.memory = [(1 << 40, 4 << 20)]
        frontend = try VhostUserFrontend.connect(FilePath(socket), options)
        queueDriver = try QueueDriver(frontend)
        guard let driver = MockDriver(memory: memory, size: 256, features: frontend.ringFeatures) else {
            throw TestFailure("no room")
        }
        self.driver = driver
        try frontend.ask(.setFeatures, WireNumber(frontend.features))
        let region = MemoryRegion(
            guestAddress: 0, size: UInt64(Self.bytes), userAddress: user, mmapOffset: 0)
        try frontend.ask(.setMemoryTable, MemoryTable([region]), descriptors: [file])
        try frontend.ask(.setVringNum, VringState(index: 0, num: 256))
        try frontend.ask(.setVringBase, VringState(index: 0, num: queueDriver.queue.base))
        try frontend.ask(
            .setVringAddress,
            VringAddress(
                index: 0, descriptors: user + driver.descriptorArea, used: user + driver.deviceArea,
                avail: user + driver.driverArea))
        try frontend.ask(.setVringCall, VringEvent(index: 0), descriptors: [queueDriver.queue.call.raw])
        try frontend.ask(.setVringKick, VringEvent(index: 0), descriptors: [queueDriver.queue.kick.raw])
        try frontend.ask(.setVringEnable, VringState(index: 0, num: 1))
    }
    deinit {
        munmap(host, Self.bytes)
        close(file)
    }

    func publish(_ i: Int) {
        let at = UInt64(2 << 20) + UInt64(i) * 0x10000
        memory.putHeader(type: VirtioBlk.RequestType.read, sector: UInt64(i * 16), at: at)
        driver.publish([
            MockBuffer(at, 16, isWritable: false), MockBuffer(at + 4096, 32768, isWritable: true),
            MockBuffer(at + 61440, 1, isWritable: true),
        ])
    }
    func kick() { queueDriver.queue.kick.signal() }
    /// From here on this process does not touch it.
    func cut(to bytes: Int) { ftruncate(file, off_t(bytes)) }
    func stop() throws { try frontend.stop(queueDriver.queue) }
}
