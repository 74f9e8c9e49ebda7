// Why this file exists: live migration is QEMU's work, the guest's and two servers' together; that none of them loses a byte
// shows only when a real guest moves while it writes.

import Foundation
import TestKit
import Testing

@Suite(
    "A guest that moves to another QEMU", .serialized,
    .disabled(if: DiskGuest.missing != nil, "\(DiskGuest.missing ?? "")"),
    .disabled(if: DiskServer.isPeer, "QEMU's own server does not give an image away"), .timeLimit(.minutes(10)))
struct MigrateGuestTests {
    /// The guest writes and reads back all the time.
    private static func expectWork(_ machine: MovableMachine, lines: Int = 8) throws {
        for _ in 0..<lines {
            let line = try machine.says()
            try #require(line.hasPrefix("ok "), "the guest says: \(line)")
        }
    }

    @Test("takes its disk along, there and back", arguments: ["raw", "qcow2"])
    func moves(format: String) throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/disk.\(format)"
            try Command(["qemu-img", "create", "-q", "-f", format, path, "32M"]).succeed()
            let home = try DiskServer(path, format: format, socket: "\(folder)/home.sock", queues: 2)
            let away = try DiskServer(
                path, format: format, socket: "\(folder)/away.sock", queues: 2, options: ["--incoming"])
            let machine = try MovableMachine(disk: home.socket, in: folder)
            try Self.expectWork(machine)
            try machine.move(to: away.socket)
            try Self.expectWork(machine)
            try machine.move(to: home.socket)
            try Self.expectWork(machine)
            let last = try machine.finish()
            for server in [home, away] { #expect(server.stop()?.exit == 0) }
            if format == "qcow2" { try Command(["qemu-img", "check", "-f", format, path]).succeed() }
            let raw = "\(folder)/out.raw"
            try Command(["qemu-img", "convert", "-f", format, "-O", "raw", path, raw]).succeed()
            let bytes = [UInt8](try Data(contentsOf: URL(filePath: raw)))
            let size = MovableMachine.blocks * MovableMachine.blockBytes
            for (writer, round) in last.enumerated() {
                let isRight =
                    Array(bytes[writer * size..<(writer + 1) * size]) == MovableMachine.part(of: writer, round: round)
                #expect(isRight, "writer \(writer), round \(round)")
            }
        }
    }
}
