// A driver's life ends with a reset, or, in virtual machines without one in their front-end, with rings that stop and start
// from nothing. What the server kept for the driver before must not reach the next one.
import DiskTypes
import LinuxIO
import SystemPackage
import TestKit
import Testing
import VhostUserBlk
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import VirtqueueMock

@Suite("A new driver")
struct ResetTests {
    /// How the driver before ended.
    enum End: String, CaseIterable, CustomStringConvertible {
        case resetDevice, setStatus, getVringBase
        var description: String { rawValue }
    }

    /// A front-end with a record of requests in flight, which it keeps for all drivers.
    private static func frontend(_ served: Served, _ rings: Rings) throws -> VhostUserFrontend {
        var options = rings.options
        options.protocolFeatures.formUnion([.inflightSharedMemory, .status, .resetDevice])
        return try VhostUserFrontend.connect(try FilePath(served.disk()), options)
    }

    private static func end(_ way: End, _ frontend: VhostUserFrontend) throws {
        switch way {
        case .resetDevice: try frontend.ask(.resetDevice)
        case .setStatus: try frontend.ask(.setStatus, WireNumber(0))
        case .getVringBase: try frontend.stop()
        }
    }

    @Test("begins with its rings, whatever the one before left in the record", arguments: Rings.both, End.allCases)
    func record(rings: Rings, way: End) throws {
        let served = try Served(workers: 1)
        let frontend = try Self.frontend(served, rings)
        let first = try BlockClient(frontend)
        try frontend.start()
        // More requests than the ring has entries, so that its position is no accident.
        for _ in 0..<300 { #expect(try first.perform(.getID).isOK) }
        try Self.end(way, frontend)
        // The next driver makes its rings anew, in the same place, and begins at entry 0.
        first.driver.startOver()
        first.queue.base = rings.isPacked ? FrontendQueue.packedStart : FrontendQueue.splitStart
        try frontend.start()
        for sector in 0..<300 {
            let answer = try first.perform(.read(sector: UInt64(sector), count: 512))
            #expect(answer.isOK && number(answer.data) == sector, "\(served.lines.all)")
        }
        #expect(served.lines.all.allSatisfy { $0.hasPrefix("info") }, "\(served.lines.all)")
    }

    @Test("finds the cache mode that the server was started with", arguments: [End.resetDevice, .setStatus])
    func cacheMode(way: End) throws {
        let served = try Served(workers: 1)
        let frontend = try Self.frontend(served, .splitEvent)
        _ = try BlockClient(frontend)
        try frontend.start()
        let place = VirtioBlk.Config.writeback
        try frontend.writeConfig(offset: place, [0])
        // Not the driver's end: a machine that stops for a moment.
        try frontend.stop()
        #expect(try frontend.readConfig(offset: place, count: 1) == [0])
        try Self.end(way, frontend)
        #expect(try frontend.readConfig(offset: place, count: 1) == [1])
    }

    @Test("that cannot flush begins with write-through, and may choose")
    func withoutFlush() throws {
        let served = try Served(workers: 1)
        let socket = try served.disk()
        var options = FrontendOptions()
        options.wanted &= ~VirtioBlk.Feature.flush
        let place = VirtioBlk.Config.writeback
        let frontend = try VhostUserFrontend.connect(FilePath(socket), options)
        #expect(try frontend.readConfig(offset: place, count: 1) == [1])
        _ = try BlockClient(frontend)
        try frontend.start()
        #expect(try frontend.readConfig(offset: place, count: 1) == [0])
        try frontend.writeConfig(offset: place, [1])
        // The same features again, as at the start of a migration: no new driver.
        try frontend.ask(.setFeatures, WireNumber(frontend.features | VirtioBlk.Feature.logAll))
        #expect(try frontend.readConfig(offset: place, count: 1) == [1])
    }
}
