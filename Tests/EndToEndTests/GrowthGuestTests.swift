// A disk that grows is of no use before its guest knows. QEMU reads the size once, when the VM starts, and again only when it
// is told to.

import Foundation
import TestKit
import Testing

@Suite(
    "A disk that grows under a guest", .serialized,
    .disabled(if: DiskGuest.missing != nil, "\(DiskGuest.missing ?? "")"),
    .disabled(if: DiskServer.isPeer, "resizes with qblk"), .timeLimit(.minutes(20)))
struct GrowthGuestTests {
    private static func size(_ machine: GuestMachine) throws -> String {
        try machine.succeed("blockdev --getsize64 /dev/vda")
    }

    @Test("while its server is away is larger once the server is back", arguments: ["raw", "qcow2"])
    func betweenServers(format: String) throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/disk.\(format)"
            try Command(["qemu-img", "create", "-q", "-f", format, path, "32M"]).succeed()
            let server = try DiskServer(path, format: format, socket: "\(folder)/s.sock", queues: 2)
            let machine = try GuestMachine(
                disks: [DiskShape(queues: 2, packed: false).word(server.socket)], folder: folder)
            defer { machine.end() }
            try #require(try Self.size(machine) == "\(32 << 20)")
            for (megabytes, kills) in [(48, false), (64, true)] {
                if kills { server.kill() } else { #expect(server.stop()?.exit == 0) }
                let resized = try qblk("resize", "-f", format, path, "\(megabytes)M")
                #expect(resized.exit == 0, "\(resized)")
                try server.start()
                try machine.wait(until: "test $(blockdev --getsize64 /dev/vda) = \(megabytes << 20)")
                // The last sector is there, and the guest's disk works.
                let write =
                    "dd if=/dev/urandom of=/dev/vda bs=1M seek=\(megabytes - 1) count=1 oflag=direct status=none"
                #expect(try machine.run(write).status == 0)
            }
            try machine.shutDown()
            #expect(server.stop()?.exit == 0)
        }
    }

    @Test("is larger after SIGHUP to the server, and to the supervisor of an attached one", arguments: [false, true])
    func hangUp(attached: Bool) throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/disk.raw"
            try Command(["truncate", "-s", "32M", path]).succeed()
            let builder = AttachedDisks(folder)
            defer { builder.clear() }
            var server =
                try attached
                ? nil : Command([Tools.qblk, "serve", "-f", "raw", path, "--socket-path", "s"], in: folder).spawn()
            defer { server?.end() }
            if !attached { while !FileManager.default.fileExists(atPath: "\(folder)/s") { usleep(20_000) } }
            let machine = try GuestMachine(
                disks: attached ? [] : ["\(folder)/s,queues=1"], options: attached ? ["--ports", "1"] : [],
                folder: folder)
            defer { machine.end() }
            if attached {
                let outcome = try builder.qblk("attach", "disk.raw", "-f", "raw", "--qmp", machine.qmpPath)
                #expect(outcome.exit == 0, "\(outcome)")
                try machine.wait(until: "test -b /dev/vda")
            }
            try #require(try Self.size(machine) == "\(32 << 20)")
            try Command(["truncate", "-s", "40M", path]).succeed()
            let supervisor = try attached ? builder.listed()["qblk0"]?["supervisor-pid"]?.integer : nil
            let target = supervisor.map { pid_t($0) } ?? server?.pid
            kill(try #require(target), SIGHUP)
            try machine.wait(until: "test $(blockdev --getsize64 /dev/vda) = \(40 << 20)")
        }
    }
}
