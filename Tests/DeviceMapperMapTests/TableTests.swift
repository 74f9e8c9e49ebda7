// The parts of a table that golden text does not show: its limits, the devices' names, and the numbers that
// formats/dm-table lays down.

import DeviceMapperMap
import DiskTypes
import Foundation
import Testing

@Suite struct TableTests {
    @Test func zerosGoOntoOneDevice() throws {
        let table = try GoldenCase("size 3072\nfile 4096\n0 1024 zero\n1024 512 data 0 0\n1536 1536 zero").table()
        let text = table.text(names: DMDeviceNames(files: [0: "7:3"], zeros: "254:9"))
        #expect(text == "0 2 linear 254:9 0\n2 1 linear 7:3 0\n3 3 linear 254:9 0\n")
        #expect(table.longestZeros == 3)
        #expect(table.hasZeros && !table.hasErrors)
        #expect(table.files == [0])
    }

    @Test func pathsAreEscapedAsTheKernelReadsThem() throws {
        let names = try DMDeviceNames(paths: [0: "/tmp/my disk\\1.qcow2"])
        #expect(names.files[0] == "/tmp/my\\ disk\\\\1.qcow2")
        #expect(throws: ImageError.self) { try DMDeviceNames(paths: [0: "/tmp/a\nb"]) }
    }

    @Test func aGapIsRefused() throws {
        var builder = try DMTableBuilder(size: 4096, fileLengths: [])
        try builder.add(Extent(guest: GuestOffset(0), length: 512, kind: .zero))
        #expect(throws: DMUnsupported.self) {
            try builder.add(Extent(guest: GuestOffset(1024), length: 512, kind: .zero))
        }
        #expect(throws: DMUnsupported(.incomplete, at: GuestOffset(512))) { try builder.finish() }
    }

    /// One line more than a table takes: every other sector from the file, backwards.
    @Test func tooManyTargets() throws {
        let count = UInt64(DMLimits.maxTargets) + 1
        var builder = try DMTableBuilder(size: count * 512, fileLengths: [count * 512])
        for i in 0..<(count - 1) {
            try builder.add(sector(i, of: count))
        }
        #expect(throws: DMUnsupported(.tooManyTargets(limit: DMLimits.maxTargets), at: GuestOffset((count - 1) * 512)))
        {
            try builder.add(sector(count - 1, of: count))
        }
    }

    @Test func tooManyBytes() throws {
        let count: UInt64 = 900_000
        var builder = try DMTableBuilder(size: count * 512, fileLengths: [count * 512])
        for i in 0..<count { try builder.add(sector(i, of: count)) }
        let table = try builder.finish()
        let obstacle = table.obstacle(names: DMDeviceNames(files: [0: "7:0"]))
        guard case .tableTooLarge(let bytes) = obstacle?.reason else {
            Issue.record("a table of 900,000 targets was let through")
            return
        }
        #expect(bytes > DMLimits.maxIoctlBytes)
    }

    private func sector(_ index: UInt64, of count: UInt64) -> Extent {
        Extent(
            guest: GuestOffset(index * 512), length: 512, kind: .data, host: HostOffset((count - 1 - index) * 512))
    }

    @Test func names() throws {
        let naming = try DMNaming(name: "vm.1_disk-a+b")
        #expect(naming.uuid.hasPrefix("QBLK-") && naming.uuid.count == 37)
        #expect(naming.zerosName.utf8.count <= DMLimits.maxNameBytes)
        #expect(DMNaming.owner(ofInternal: naming.zerosUUID) == naming.uuid)
        #expect(DMNaming.owner(ofInternal: naming.uuid) == nil)
        for bad in ["", ".", "..", "control", "a b", "a/b", "ä", String(repeating: "x", count: 128)] {
            #expect(throws: ImageError.self) { try DMNaming(name: bad) }
        }
    }
}
