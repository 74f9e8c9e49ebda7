// What goes into device-mapper must be right to the sector; the golden cases say what right is.

import DeviceMapperMap
import DiskTypes
import Foundation
import Testing

@Suite struct TableGoldenTests {
    static let names: [String] = {
        let all = (try? FileManager.default.contentsOfDirectory(atPath: golden.path)) ?? []
        return all.filter { $0.hasSuffix(".extents") }.map { String($0.dropLast(8)) }.sorted()
    }()
    static let golden = GoldenCase.folder.appendingPathComponent("golden")

    @Test func casesAreThere() { #expect(TableGoldenTests.names.count >= 10) }

    @Test(arguments: names) func case_(name: String) throws {
        let input = try GoldenCase(read("\(name).extents"))
        let table: DMTable
        do throws(DMUnsupported) {
            table = try input.table()
        } catch {
            #expect(error.error.description + "\n" == (try read("\(name).refused")))
            return
        }
        var devices = DMDeviceNames(files: [:])
        for file in table.files { devices.files[file] = "7:\(file)" }
        #expect(table.text(names: devices) == (try read("\(name).table")))
        #expect(table.sectors == (input.size + 511) / 512)
        for file in table.files {
            #expect(table.sectorsNeeded(ofFile: file) <= input.files[Int(file)] / 512)
        }
    }

    private func read(_ name: String) throws -> String {
        try String(contentsOf: TableGoldenTests.golden.appendingPathComponent(name), encoding: .utf8)
    }
}
