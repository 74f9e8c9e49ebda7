// Why this file exists: many queues and workers write one qcow2 image, in which nearly every write needs a cluster, often the
// same one as another: the guest sees a flat array, and QEMU finds neither error nor leak afterwards.
import DiskTypes
import Foundation
import TestKit
import Testing
import VhostUserFrontend
import VhostUserWire
import Virtqueue

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
        front.memory = [(0, 8 << 20), (0x1_0000_0000, Load.room(lanes: 3, style))]
        let frontend = try VhostUserFrontend.connect(socket, front)
        let lanes = try (0..<3).map { _ in try Lane(frontend) }
        try frontend.start()
        let load = Load(lanes, arena: 0x1_0000_0000, content: content, style: style)
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
    /// It was answered, it is gone, and nobody would say so: a journal would go on without its blocks.
    @Test func theFlushAfterALossFails() throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/a.qcow2"
            try Command(["qemu-img", "create", "-q", "-f", "qcow2", path, "4M"]).succeed()
            let server = try DiskServer(path, format: "qcow2", socket: "\(folder)/a.sock")
            var options = FrontendOptions()
            options.protocolFeatures.insert(.inflightSharedMemory)
            let (frontend, clients) = try VhostUserFrontend.running("\(folder)/a.sock", options)
            func again() throws {
                server.kill()
                try server.start()
                try frontend.reconnect()
                for client in clients { client.queue.base = client.driver.resumePosition }
                try frontend.start()
            }
            let bytes = [UInt8](repeating: 7, count: 4096)
            // Flushed: nothing is lost.
            #expect(try clients[0].perform(.write(sector: 0, bytes)).isOK)
            #expect(try clients[0].perform(.flush).isOK)
            try again()
            #expect(try clients[0].perform(.flush).isOK)
            #expect(try clients[0].perform(.read(sector: 0, count: 4096)).data == bytes)
            // Not flushed.
            #expect(try clients[0].perform(.write(sector: 1024, bytes)).isOK)
            try again()
            #expect(try clients[0].perform(.flush).status == RequestStatus.ioError.rawValue)
            #expect(try clients[0].perform(.flush).isOK)
            #expect(try clients[0].perform(.read(sector: 0, count: 4096)).data == bytes)
            // The front-end goes and comes back; the server has lost nothing.
            #expect(try clients[0].perform(.write(sector: 2048, bytes)).isOK)
            frontend.connection.shutDown()
            try frontend.reconnect()
            for client in clients { client.queue.base = client.driver.resumePosition }
            try frontend.start()
            #expect(try clients[0].perform(.flush).isOK)
            #expect(try clients[0].perform(.read(sector: 2048, count: 4096)).data == bytes)
        }
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
