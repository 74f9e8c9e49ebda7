// A guest that moves has a server at either end of its way, and its image is never with both: the first has given it
// back, whole, before the second opens it.
import DiskTypes
import Foundation
import ImageChain
import LinuxIO
import TestKit
import Testing
import VhostUserBlk
import VhostUserClient
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import SystemPackage

@Suite("A guest that moves", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
struct MigrationTests {
    /// The guest at one end.
    private final class End {
        let frontend: VhostUserFrontend
        let client: BlockClient
        private let log: SharedMemory

        init(_ socket: String) throws {
            var options = FrontendOptions()
            options.protocolFeatures.formUnion([.logSharedMemory, .inflightSharedMemory])
            frontend = try VhostUserFrontend.connect(FilePath(socket), options)
            client = try BlockClient(frontend)
            log = try SharedMemory("log", count: 1 << 20)
        }

        func write(_ byte: UInt8, at offset: Int, count: Int = 4096) throws -> Bool {
            let bytes = [UInt8](repeating: byte, count: count)
            return try client.perform(.write(sector: UInt64(offset / 512), bytes)).isOK
        }
        func holds(_ byte: UInt8, at offset: Int, count: Int = 4096) throws -> Bool {
            let answer = try client.perform(.read(sector: UInt64(offset / 512), count: count))
            return answer.isOK && answer.data == [UInt8](repeating: byte, count: count)
        }
        /// Memory is being followed, as in a migration.
        func log(_ isOn: Bool) throws {
            if isOn {
                let description = LogDescription(mmapSize: UInt64(log.count), mmapOffset: 0)
                try frontend.ask(.setLogBase, description, descriptors: [log.fd])
            }
            let bit = isOn ? VirtioBlk.Feature.logAll : 0
            try frontend.ask(.setFeatures, WireNumber(frontend.features | bit))
        }
        /// The rings stop for good here.
        func leave() throws {
            try log(true)
            try frontend.stop()
        }
    }

    private static func image(_ served: Served, _ format: ImageFormat, _ options: String = "") throws -> String {
        let extra = options.isEmpty ? [] : ["-o", options]
        try Command(
            ["qemu-img", "create", "-q", "-f", format.rawValue] + extra + ["disk", "16M"], in: served.folder
        ).succeed()
        return "disk"
    }

    /// No process holds its locks.
    private static func isFree(_ path: String, _ format: ImageFormat) throws -> Bool {
        try Command(["qemu-io", "-f", format.rawValue, "-c", "write -P 1 15M 512", path]).run().exit == 0
    }

    @Test("to another server, and back, finds all it wrote", arguments: [ImageFormat.raw, .qcow2])
    func movesAndReturns(format: ImageFormat) throws {
        let served = try Served(workers: 2)
        let name = try Self.image(served, format)
        let first = try End(try served.addMovable(name, format: format, isIncoming: false))
        let second = try End(try served.addMovable(name, format: format, isIncoming: true))
        let ends = [first, second]
        for round in 0..<6 {
            let here = ends[round % 2]
            try here.log(false)
            try here.frontend.start()
            for past in 0..<round {
                #expect(try here.holds(UInt8(past + 1), at: past << 20, count: 300_000 / 512 * 512))
            }
            // Not flushed: a guest that moves has not asked for that.
            #expect(try here.write(UInt8(round + 1), at: round << 20, count: 300_000 / 512 * 512))
            #expect(try !Self.isFree(served.path(name), format))
            try here.leave()
            #expect(try Self.isFree(served.path(name), format))
        }
        served.stop()
        if format == .qcow2 {
            try Command(["qemu-img", "check", "-q", "-f", "qcow2", served.path(name)]).succeed()
        }
        #expect(served.lines.all.allSatisfy { $0.hasPrefix("info") }, "\(served.lines.all)")
    }

    @Test("does not start where the image is not to be had, and starts there once it is")
    func waitsForTheImage() throws {
        let served = try Served(workers: 1)
        let name = try Self.image(served, .qcow2)
        let first = try End(try served.addMovable(name, format: .qcow2, isIncoming: false))
        let second = try End(try served.addMovable(name, format: .qcow2, isIncoming: true))
        try first.frontend.start()
        #expect(try first.write(7, at: 0))
        #expect(throws: FrontendError.self) { try second.frontend.start() }
        #expect(second.frontend.connection.isClosed())
        #expect(served.lines.count("error: disk: connection closed") == 1, "\(served.lines.all)")
        #expect(try first.holds(7, at: 0))
        try first.leave()
        try second.frontend.reconnect()
        try second.frontend.start()
        #expect(try second.holds(7, at: 0))
    }

    @Test("and stays after all goes on where it was", arguments: [ImageFormat.raw, .qcow2])
    func stays(format: ImageFormat) throws {
        let served = try Served(workers: 1)
        let name = try Self.image(served, format)
        let end = try End(try served.addMovable(name, format: format, isIncoming: false))
        try end.frontend.start()
        #expect(try end.write(1, at: 0, count: 1 << 20))
        try end.leave()
        try end.frontend.start()
        #expect(try end.holds(1, at: 0, count: 1 << 20) && end.write(2, at: 4096))
        #expect(try !Self.isFree(served.path(name), format))
    }

    @Test("after a flush that failed cannot take its image along", arguments: [ImageFormat.raw, .qcow2])
    func afterAFailedFlush(format: ImageFormat) throws {
        let served = try Served(workers: 1)
        let name = try Self.image(served, format)
        let end = try End(
            try served.addMovable(name, format: format, isIncoming: false) { _ = $0.flushed(EIO, buffered: true) })
        try end.frontend.start()
        try end.leave()
        #expect(served.lines.count("a flush has failed") == 1, "\(served.lines.all)")
        #expect(try !Self.isFree(served.path(name), format))
        // What was written may be lost: the server's end says so.
        #expect(!served.server.stop())
        #expect(served.lines.count("what was written last may be lost") == 1, "\(served.lines.all)")
    }

    @Test("keeps its image when its rings stop for another reason")
    func keeps() throws {
        let served = try Served(workers: 1)
        let name = try Self.image(served, .qcow2)
        let end = try End(try served.addMovable(name, format: .qcow2, isIncoming: false))
        try end.frontend.start()
        #expect(try end.write(1, at: 0))
        try end.frontend.stop()
        #expect(try !Self.isFree(served.path(name), .qcow2))
    }
}
