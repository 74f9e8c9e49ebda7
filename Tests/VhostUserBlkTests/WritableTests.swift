// Many queues and workers write one qcow2 image, in which nearly every write needs a cluster, often the same one as
// another: the guest sees a flat array, and QEMU finds neither error nor leak afterwards.
import DiskTypes
import Foundation
import TestKit
import Testing
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

@Suite("A qcow2 image under a guest's writes", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
struct WritableTests {
    static let options = [
        "cluster_size=64k", "cluster_size=4k", "cluster_size=512,refcount_bits=1", "cluster_size=1M",
        "extended_l2=on", "compat=0.10",
    ]

    @Test(arguments: options, [false, true])
    func isAFlatArray(options: String, hasBacking: Bool) throws {
        let served = try Served(workers: 2)
        var content = [UInt8](repeating: 0, count: 4 << 20)
        var create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options]
        if hasBacking {
            try Files.numbered(served.path("base.raw"), 3 << 20)
            content.replaceSubrange(0..<3 << 20, with: try Files.bytes(served.path("base.raw")))
            create += ["-b", "base.raw", "-F", "raw"]
        }
        try Command(create + ["a.qcow2", "4M"], in: served.folder).succeed()
        let socket = try served.add("a.qcow2", format: .qcow2, queues: 3)
        var front = Rings.splitEvent.options
        let style = LoadStyle()
        front.memory = [(0, 8 << 20), (0x1_0000_0000, Load.room(queueDrivers: 3, style))]
        let frontend = try VhostUserFrontend.connect(FilePath(socket), front)
        let queueDrivers = try (0..<3).map { _ in try QueueDriver(frontend) }
        try frontend.start()
        let load = Load(queueDrivers, arena: 0x1_0000_0000, content: content, style: style)
        for _ in 0..<4 {
            load.run(400)
            load.drain()
            try #require(load.failure == nil)
        }
        frontend.connection.shutDown()
        served.stop()
        #expect(served.lines.all.allSatisfy { $0.hasPrefix("info") }, "\(served.lines.all)")
        try Command(["qemu-img", "check", "-U", "-f", "qcow2", "a.qcow2"], in: served.folder).succeed()
        try Command(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", "a.qcow2", "out.raw"], in: served.folder)
            .succeed()
        #expect(load.matches(try Files.bytes(served.path("out.raw"))), "seed \(load.seed)")
    }
}

@Suite(
    "A qcow2 image whose server is killed",
    .disabled(if: DiskServer.isPeer || DiskServer.missing != nil, "\(Tools.qblkReason)"))
struct KilledWriterTests {
    /// What was flushed is there, the rest is old or new, and the metadata has no error; leaks are allowed.
    @Test(arguments: ["cluster_size=64k", "cluster_size=4k", "extended_l2=on"])
    func losesNothingThatWasFlushed(options: String) throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/a.qcow2"
            try Command(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "4M"]).succeed()
            var content = [UInt8](repeating: 0, count: 4 << 20)
            let server = try DiskServer(path, format: "qcow2", socket: "\(folder)/a.sock", options: ["--workers", "2"])
            for round in 0..<6 {
                if round > 0 { try server.start() }
                let (frontend, clients) = try VhostUserFrontend.running("\(folder)/a.sock")
                var sure = content
                for step in 0..<60 {
                    let start = Int.random(in: 0..<(4 << 20) / 4096) * 4096
                    let bytes = [UInt8](repeating: UInt8(1 + (round * 60 + step) % 255), count: 4096)
                    try #require(try clients[0].perform(.write(sector: UInt64(start / 512), bytes)).isOK)
                    content.replaceSubrange(start..<start + 4096, with: bytes)
                    guard step % 20 == 19, step < 50 else { continue }
                    try #require(try clients[0].perform(.flush).isOK)
                    sure = content
                }
                server.kill()
                frontend.connection.shutDown()
                let check = try Command(["qemu-img", "check", "-f", "qcow2", path]).run()
                #expect(check.exit == 0 || check.exit == 3, "\(check)")
                try Command(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, "\(folder)/out.raw"])
                    .succeed()
                let now = try Files.bytes("\(folder)/out.raw")
                for i in stride(from: 0, to: now.count, by: 512) where now[i] != sure[i] && now[i] != content[i] {
                    Issue.record("round \(round): the byte at \(i) is \(now[i]): neither \(sure[i]) nor \(content[i])")
                    return
                }
                content = now
            }
        }
    }
}

extension WritableTests {
    @Test func discardsGiveSpaceBack() throws {
        let served = try Served(workers: 1)
        let path = served.path("a.qcow2")
        try Command(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M"]).succeed()
        let (_, clients) = try VhostUserFrontend.running(try served.add("a.qcow2", format: .qcow2))
        func used() -> Int {
            var status = stat()
            stat(path, &status)
            return Int(status.st_blocks) * 512
        }
        for i in 0..<256 {
            #expect(try clients[0].perform(.write(sector: UInt64(i * 128), [UInt8](repeating: 5, count: 65536))).isOK)
        }
        #expect(try clients[0].perform(.flush).isOK)
        try #require(used() > 15 << 20)
        #expect(try clients[0].perform(.discard(sector: 0, count: 16 << 11)).isOK)
        #expect(try clients[0].perform(.flush).isOK)
        // Only once no older request can touch them.
        let end = Date() + 20
        while used() > 1 << 20, Date() < end { usleep(20_000) }
        #expect(used() <= 1 << 20)
        #expect(try clients[0].perform(.read(sector: 0, count: 4096)).data.allSatisfy { $0 == 0 })
    }
}

extension KilledWriterTests {
    /// The guest goes on as if there had been a pause: its journal would not survive a block that was answered and is gone.
    @Test(arguments: ["cluster_size=64k", "cluster_size=4k,refcount_bits=64", "extended_l2=on", "cluster_size=512"])
    func losesNothingThatWasAnswered(options: String) throws {
        try Scratch.withFolder { folder in
            let guest = try KilledGuest(options, in: folder)
            for round in 0..<13 {
                if round > 0 { try guest.kill() }
                try #require(try guest.readAll() == guest.content, "round \(round)")
                for step in 0..<40 { try guest.change(step) }
            }
            try guest.end()
        }
    }

    /// What the front-end's memory says cannot be believed: then the guest must not be told that all is safe.
    @Test func theFlushAfterALossFails() throws {
        try Scratch.withFolder { folder in
            let guest = try KilledGuest("cluster_size=64k", in: folder)
            try #require(try guest.client.perform(.write(sector: 8, [UInt8](repeating: 1, count: 512))).isOK)
            guest.server.kill()
            try guest.scribbleOnJournal()
            try guest.server.start()
            try guest.reconnect()
            #expect(try guest.client.perform(.flush).status == RequestStatus.ioError.rawValue)
            #expect(try guest.client.perform(.flush).isOK)
            try guest.change(1)
            #expect(try guest.client.perform(.flush).isOK)
        }
    }

    @Test func aFrontEndThatComesBackFindsEverything() throws {
        try Scratch.withFolder { folder in
            let guest = try KilledGuest("cluster_size=64k", in: folder)
            for step in 0..<20 { try guest.change(step) }
            guest.frontend.connection.shutDown()
            try guest.reconnect()
            #expect(try guest.client.perform(.flush).isOK)
            #expect(try guest.readAll() == guest.content)
            try guest.end()
        }
    }
}

/// A guest with one queue, and what its disk must hold.
private final class KilledGuest {
    let server: DiskServer
    let frontend: VhostUserFrontend
    let client: BlockClient
    private let path: String
    private let folder: String
    var content = [UInt8](repeating: 0, count: 4 << 20)
    private var dice = SeededRandom(.random(in: 1...99999))

    init(_ options: String, in folder: String) throws {
        self.folder = folder
        path = "\(folder)/a.qcow2"
        try Command(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "4M"]).succeed()
        server = try DiskServer(path, format: "qcow2", socket: "\(folder)/a.sock", options: ["--workers", "2"])
        var wanted = FrontendOptions()
        wanted.protocolFeatures.insert(.inflightSharedMemory)
        let (frontend, clients) = try VhostUserFrontend.running("\(folder)/a.sock", wanted)
        (self.frontend, client) = (frontend, clients[0])
    }

    func kill() throws {
        server.kill()
        try server.start()
        try reconnect()
    }

    func reconnect() throws {
        try frontend.reconnect()
        client.queue.base = client.driver.resumePosition
        try frontend.start()
    }

    /// One change, small or large; now and then a flush.
    func change(_ step: Int) throws {
        let sectors = content.count / 512
        let at = dice.below(sectors)
        let count = min(sectors - at, 1 + dice.below(1 << dice.below(8)))
        if dice.below(4) == 0 {
            try #require(
                try client.perform(.writeZeroes(sector: UInt64(at), count: UInt32(count), unmap: step & 1 == 0)).isOK)
            content.replaceSubrange(at * 512..<(at + count) * 512, with: repeatElement(0, count: count * 512))
        } else {
            let bytes = [UInt8](repeating: UInt8(1 + dice.below(255)), count: count * 512)
            try #require(try client.perform(.write(sector: UInt64(at), bytes)).isOK)
            content.replaceSubrange(at * 512..<(at + count) * 512, with: bytes)
        }
        if dice.below(16) == 0 { try #require(try client.perform(.flush).isOK) }
    }

    func readAll() throws -> [UInt8] {
        var all: [UInt8] = []
        while all.count < content.count {
            let part = try client.perform(.read(sector: UInt64(all.count / 512), count: 65536))
            try #require(part.isOK)
            all += part.data
        }
        return all
    }

    func scribbleOnJournal() throws {
        let record = try #require(frontend.inflight)
        let size = Int(record.description.mmapSize)
        let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, record.file.raw, 0)
        defer { munmap(memory, size) }
        let words = try #require(memory).assumingMemoryBound(to: UInt64.self)
        let start = try #require((0..<size / 8).first { words[$0] == 0x3170_616d_6b6c_6271 })
        words[start + 8] = .max
    }

    /// The server closes in order: neither errors nor leaks, and QEMU reads the same.
    func end() throws {
        frontend.connection.shutDown()
        #expect(server.stop()?.exit == 0)
        try Command(["qemu-img", "check", "-f", "qcow2", path]).succeed()
        try Command(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, "\(folder)/out.raw"]).succeed()
        #expect(try Files.bytes("\(folder)/out.raw") == content)
    }
}

extension WritableTests {
    /// A file system of 8 MiB, as full as can be: writes fail, nothing breaks, and with room again all goes on.
    @Test(.enabled(if: Tools.canLoop, "mounts: \(Tools.loopReason)"))
    func aFullDiskIsAnErrorUntilThereIsRoom() throws {
        let folder = try Scratch.newFolder("full")
        try Command(["mount", "-t", "tmpfs", "-o", "size=8m", "full", folder]).succeed()
        defer { _ = try? Command(["umount", "-l", folder]).run() }
        try Command(["qemu-img", "create", "-q", "-f", "qcow2", "\(folder)/a.qcow2", "64M"]).succeed()
        try Command(["dd", "if=/dev/zero", "of=\(folder)/filler", "bs=1M", "count=4", "status=none"]).succeed()
        let socket = try Scratch.newFolder("full-socket") + "/s"
        let server = try DiskServer("\(folder)/a.qcow2", format: "qcow2", socket: socket)
        let (_, clients) = try VhostUserFrontend.running(socket)
        let bytes = [UInt8](repeating: 3, count: 65536)
        var (good, bad) = (0, 0)
        for i in 0..<128 {
            if try clients[0].perform(.write(sector: UInt64(i * 128), bytes)).isOK { good += 1 } else { bad += 1 }
        }
        #expect(good > 16 && bad > 16, "\(good) went, \(bad) did not")
        _ = try clients[0].perform(.flush)
        unlink("\(folder)/filler")
        for i in 200..<230 { #expect(try clients[0].perform(.write(sector: UInt64(i * 128), bytes)).isOK) }
        #expect(try clients[0].perform(.flush).isOK)
        #expect(try clients[0].perform(.read(sector: 220 * 128, count: 65536)).data == bytes)
        #expect(server.stop()?.exit == 0)
        try Command(["qemu-img", "check", "-f", "qcow2", "\(folder)/a.qcow2"]).succeed()
    }
}
