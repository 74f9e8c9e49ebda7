// What one process of a map or of an attached disk hands to the next is taken as it is or refused: a format that cannot be
// read is an error, for a wrong one is a wrong disk.
import DiskTypes
import FoundationEssentials
import ImageChain
import MapRegistry
import SystemPackage
import TestKit
import Testing

@testable import FuseExport

@Suite(.enabled(if: Tools.have("qemu-img"), "needs qemu-img")) struct HandOverTests {
    private func encoded() throws -> String {
        try Scratch.withFolder("handover") { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "a.qcow2")
            let image = FilePath(builder.path("a.qcow2"))
            var open = OpenOptions()
            open.format = .qcow2
            let chain = try ImageChain.open(path: image, options: open)
            let options = LoopMapOptions(image: image, open: open)
            return try LoopConfig(options, name: "a", image: image, chain: chain).encoded()
        }
    }

    @Test(arguments: ["raw", "qcow2"]) func aFormatThatIsKnownIsTaken(format: String) throws {
        let text = try encoded().replacing("\"qcow2\"", with: "\"\(format)\"")
        let config = try LoopConfig.decoded(text)
        #expect(config.format.rawValue == format && config.files.map(\.format?.rawValue) == [format])
    }

    @Test(arguments: ["qcow3", "vdi", "QCOW2", ""]) func aFormatThatIsNotKnownIsAnError(format: String) throws {
        let text = try encoded()
        let parts = text.split(separator: "\"qcow2\"", omittingEmptySubsequences: false)
        try #require(parts.count == 3, "the image's format, and that of its one file")
        for wrong in [
            "\(parts[0])\"\(format)\"\(parts[1])\"qcow2\"\(parts[2])",
            "\(parts[0])\"qcow2\"\(parts[1])\"\(format)\"\(parts[2])",
        ] {
            let error = #expect(throws: ImageError.self) { _ = try LoopConfig.decoded(wrong) }
            #expect(error?.advice != nil)
        }
    }
}
