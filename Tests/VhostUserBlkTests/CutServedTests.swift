// The file of a disk that a guest has is cut. The guest sees I/O errors, never zeros for what was lost, and the log
// says why, once.
import DiskTypes
import Foundation
import ImageChain
import TestKit
import Testing
import VhostUserFrontend

@Suite("An image that is cut while it is served", .enabled(if: Tools.haveQemu, "\(Tools.qemuReason)"))
struct CutServedTests {
    @Test("costs the guest I/O errors, and the log one line", arguments: ["raw", "qcow2"])
    func cut(format: String) throws {
        let served = try Served(workers: 1)
        try Data(repeating: 7, count: 4 << 20).write(to: URL(filePath: served.path("disk.raw")))
        let name = "disk.\(format)"
        if format == "qcow2" {
            try Command(
                ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", name], in: served.folder
            ).succeed()
        }
        let socket = try served.add(name, format: try #require(ImageFormat(rawValue: format)))
        let (frontend, clients) = try VhostUserFrontend.running(socket)
        let guest = clients[0]
        let block = [UInt8](repeating: 9, count: 4096)
        for sector in [UInt64(0), 4096] {
            #expect(try guest.perform(.write(sector: sector, block)).isOK)
            #expect(try guest.perform(.read(sector: sector, count: 4096)).data == block)
        }
        #expect(try guest.perform(.flush).isOK)
        #expect(truncate(served.path(name), 1 << 20) == 0)
        for sector in [UInt64(4096), 6000] {
            let answer = try guest.perform(.read(sector: sector, count: 4096))
            #expect(!answer.isOK, "sector \(sector)")
        }
        // In place, behind the cut: from the flush on nothing is believed.
        _ = try guest.perform(.write(sector: 6144, block))
        #expect(try !guest.perform(.flush).isOK)
        for sector in [UInt64(0), 4096, 5000, 6144] {
            #expect(try !guest.perform(.read(sector: sector, count: 4096)).isOK, "sector \(sector)")
            #expect(try !guest.perform(.write(sector: sector, block)).isOK, "sector \(sector)")
        }
        #expect(try !guest.perform(.flush).isOK)
        #expect(served.lines.count("a request fails") == 1, "\(served.lines.all)")
        frontend.connection.shutDown()
    }
}
