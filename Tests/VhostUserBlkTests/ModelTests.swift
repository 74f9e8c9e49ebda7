// The one claim that matters: the disk that a guest sees is a flat array of bytes, whatever the rings, the cut of its
// requests, the format of the image and the number of threads.
import DiskTypes
import Foundation
import TestKit
import Testing
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

/// What is below the disk.
enum Below: String, CaseIterable, CustomStringConvertible, Sendable {
    case rawDirect, rawCached, qcow2Direct, qcow2Cached
    var description: String { rawValue }
    var isRaw: Bool { self == .rawDirect || self == .rawCached }
    var isDirect: Bool { self == .rawDirect || self == .qcow2Direct }
}

@Suite(
    "A served disk is an array of bytes", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
struct ModelTests {
    static let bytes = 6 << 20

    /// Rings in the first region; behind them regions that touch and are no multiple of anything.
    static func memory(_ room: Int) -> [(guest: UInt64, bytes: Int)] {
        var list: [(guest: UInt64, bytes: Int)] = [(0x10_0000, 64 << 20)]
        let part = (room / 6 + 4096 * 3) & ~4095
        for i in 0..<7 { list.append((0x1_0000_0000 + UInt64(i * part), part)) }
        return list
    }

    private func run(_ below: Below, _ rings: Rings, queues: Int, count: Int, style: LoadStyle, size: Int) throws {
        let served = try Served(workers: 2)
        let name = below.isRaw ? "disk.raw" : "disk.qcow2"
        if below.isRaw {
            try Data(count: Self.bytes).write(to: URL(filePath: served.path(name)))
        } else {
            try Files.preallocated(served.path(name), Self.bytes)
        }
        let socket = try served.add(name, format: below.isRaw ? .raw : .qcow2, direct: below.isDirect, queues: queues)
        var options = rings.options
        options.queueSize = size
        options.memory = Self.memory(Load.room(queueDrivers: queues, style))
        let frontend = try VhostUserFrontend.connect(FilePath(socket), options)
        let queueDrivers = try (0..<queues).map { _ in try QueueDriver(frontend, tableEntries: 1030) }
        try frontend.start()
        let load = Load(
            queueDrivers, arena: options.memory[1].guest, content: Array(repeating: 0, count: Self.bytes), style: style)
        load.run(count)
        load.drain()
        #expect(load.failure == nil)
        try frontend.stop()
        served.stop()
        if below.isRaw {
            #expect(load.matches(try Files.bytes(served.path(name))), "seed \(load.seed)")
        } else {
            try Command(["qemu-img", "convert", "-U", "-O", "raw", name, "out.raw"], in: served.folder).succeed()
            #expect(load.matches(try Files.bytes(served.path("out.raw"))), "seed \(load.seed)")
            try Command(["qemu-img", "check", "-U", "-q", name], in: served.folder).succeed()
        }
    }

    @Test(arguments: Below.allCases, Rings.allCases)
    func anyCutOfAnyRequest(below: Below, rings: Rings) throws {
        var style = LoadStyle()
        style.depth = 8
        try run(below, rings, queues: 3, count: 1500, style: style, size: rings.isPacked ? 150 : 256)
    }

    @Test(arguments: Rings.both)
    func alignedRequestsGoStraight(rings: Rings) throws {
        var style = LoadStyle()
        style.alignment = 4096
        style.blockSectors = 8
        style.depth = 32
        style.segments = 4
        try run(.qcow2Direct, rings, queues: 2, count: 4000, style: style, size: 256)
    }

    @Test(arguments: Rings.both)
    func manySegments(rings: Rings) throws {
        var style = LoadStyle()
        style.segments = 1000
        style.largest = 256 << 10
        style.depth = 1
        style.zeroes = false
        try run(.rawDirect, rings, queues: 2, count: 300, style: style, size: 1024)
    }
}
