// Live migration is QEMU's work, the guest's and two servers' together; that none of them loses a byte shows only
// when a real guest moves while it writes.

import Foundation
import TestKit
import Testing

@Suite(
    "A guest that moves to another QEMU", .serialized,
    .disabled(if: DiskGuest.missing != nil, "\(DiskGuest.missing ?? "")"),
    .disabled(if: DiskServer.isPeer, "QEMU's own server does not give an image away"), .timeLimit(.minutes(20)))
struct MigrateGuestTests {
    /// Switch-overs of a guest; more when hunting: QBLK_SWITCHOVERS.
    private static let moves = ProcessInfo.processInfo.environment["QBLK_SWITCHOVERS"].flatMap { Int($0) } ?? 2

    /// Every writer writes and reads back all the time: one whose request got lost on the way would wait for ever, while
    /// the others go on.
    private static func expectWork(_ machine: MovableMachine, each: Int = 2) throws {
        var counts = Array(repeating: 0, count: MovableMachine.writers)
        while counts.contains(where: { $0 < each }) {
            let words = try machine.says().split(separator: " ")
            guard words.count == 3, words[0] == "ok", let writer = Int(words[1]), counts.indices.contains(writer) else {
                throw TestFailure("the guest says: \(words)")
            }
            counts[writer] += 1
            try #require(counts[writer] < 400, "writer \(counts.firstIndex { $0 < each } ?? 0) is stuck: \(counts)")
        }
    }

    @Test("takes its disk along, there and back, under load", arguments: ["raw", "qcow2"], [false, true])
    func moves(format: String, packed: Bool) throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/disk.\(format)"
            try Command(["qemu-img", "create", "-q", "-f", format, path, "32M"]).succeed()
            let home = try DiskServer(path, format: format, socket: "\(folder)/home.sock", queues: 2)
            let away = try DiskServer(
                path, format: format, socket: "\(folder)/away.sock", queues: 2, options: ["--incoming"])
            let machine = try MovableMachine(disk: home.socket, packed: packed, in: folder)
            try Self.expectWork(machine)
            for move in 1...Self.moves {
                try machine.move(to: move % 2 == 1 ? away.socket : home.socket)
                do { try Self.expectWork(machine) } catch {
                    throw TestFailure("after switch-over \(move): \(error)")
                }
            }
            let last = try machine.finish()
            for server in [home, away] { #expect(server.stop()?.exit == 0) }
            try Self.expectContent(last, path, format, in: folder)
        }
    }

    /// The writers' requests are in the server's hands when the guest is stopped, and end only afterwards: what the server
    /// then writes into the guest's memory must get to the other QEMU by the dirty log.
    @Test(
        "gets the answers to requests that were held back over the switch-over",
        .enabled(if: FreezableFolder.missing == nil, "\(FreezableFolder.missing ?? "")"),
        arguments: [false, true])
    func held(packed: Bool) throws {
        try Scratch.withFolder { folder in
            let storage = try FreezableFolder(megabytes: 64, in: folder)
            let path = "\(storage.path)/disk.raw"
            try Command(["qemu-img", "create", "-q", "-f", "raw", "-o", "preallocation=full", path, "32M"]).succeed()
            let home = try DiskServer(path, format: "raw", socket: "\(folder)/home.sock", queues: 2)
            let away = try DiskServer(
                path, format: "raw", socket: "\(folder)/away.sock", queues: 2, options: ["--incoming"])
            let machine = try MovableMachine(disk: home.socket, packed: packed, in: folder)
            try Self.expectWork(machine)
            for move in 1...Self.moves {
                try storage.freeze()
                try machine.awaitSilence()
                // The guest is stopped a second after the migration began, for its memory hardly changes; QEMU then waits
                // for the server's last answer.
                let thaw = Thread {
                    sleep(6)
                    storage.thaw()
                }
                thaw.start()
                let downtime = try machine.move(to: move % 2 == 1 ? away.socket : home.socket)
                #expect(downtime > 500, "the guest was stopped for \(downtime) ms only: no request was held back")
                try Self.expectWork(machine)
            }
            let last = try machine.finish()
            for server in [home, away] { #expect(server.stop()?.exit == 0) }
            try Self.expectContent(last, path, "raw", in: folder)
        }
    }

    /// Each writer's part of the disk is what it wrote last.
    private static func expectContent(_ last: [Int], _ path: String, _ format: String, in folder: String) throws {
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
