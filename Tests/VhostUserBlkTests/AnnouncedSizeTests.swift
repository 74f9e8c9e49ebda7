// A disk that grew while its server was away: the front-end comes back with the size that it read from the server before,
// and must be told to read it again.
import DiskTypes
import Foundation
import LinuxIO
import SystemPackage
import TestKit
import Testing
import VhostUserBlk
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue

@Suite("A size that the front-end does not know")
struct AnnouncedSizeTests {
    private static func options() -> FrontendOptions {
        var options = FrontendOptions()
        options.protocolFeatures.insert(.backendRequests)
        return options
    }

    @Test("is announced to a front-end that comes back, once a ring runs", arguments: [1, 2])
    func afterReconnect(queues: Int) throws {
        let served = try Served(workers: 2)
        let socket = try served.disk(4 << 20, queues: queues)
        let (frontend, clients) = try VhostUserFrontend.running(socket, Self.options(), queues: queues)
        #expect(try frontend.capacity() == 4 << 20)
        frontend.connection.shutDown()
        let bigger = try Served(workers: 2)
        try Files.numbered(bigger.path("big.raw"), 8 << 20)
        try FileManager.default.removeItem(atPath: socket)
        try FileManager.default.createSymbolicLink(
            atPath: socket, withDestinationPath: try bigger.add("big.raw", queues: queues))
        for client in clients { client.queue.base = client.driver.resumePosition }
        try frontend.reconnect()
        #expect(try frontend.backendRequests?.next(milliseconds: 100) == nil)
        try frontend.start()
        #expect(try frontend.backendRequests?.next(milliseconds: 5000) == .configChange)
        #expect(try frontend.capacity() == 8 << 20)
        // Once: the other rings, and a ring that starts again, are no news.
        try frontend.stop()
        try frontend.start()
        #expect(try frontend.backendRequests?.next(milliseconds: 100) == nil)
    }

    @Test("is announced, one that it has read already is not")
    func known() throws {
        let served = try Served(workers: 1)
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()), Self.options())
        #expect(try frontend.capacity() == 4 << 20)
        _ = try BlockClient(frontend)
        try frontend.start()
        #expect(try frontend.backendRequests?.next(milliseconds: 100) == nil)
        served.server.refreshSizes()
        #expect(try frontend.backendRequests?.next(milliseconds: 100) == nil)
    }

    @Test("is announced again when the server is told to look, until the front-end has read it")
    func whenTold() throws {
        let served = try Served(workers: 1)
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()), Self.options())
        _ = try BlockClient(frontend)
        try frontend.start()
        #expect(try frontend.backendRequests?.next(milliseconds: 5000) == .configChange)
        served.server.refreshSizes()
        #expect(try frontend.backendRequests?.next(milliseconds: 5000) == .configChange)
        #expect(try frontend.capacity() == 4 << 20)
        served.server.refreshSizes()
        #expect(try frontend.backendRequests?.next(milliseconds: 100) == nil)
    }
}
