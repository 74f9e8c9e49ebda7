// The headline: `qblk map` makes a block device whose bytes are the guest's, and `unmap` leaves nothing behind.
// Devices are the machine's, so these tests run one after another.

import Foundation
import TestKit
import Testing

@Suite(
    "Mapped through loop", .serialized, .enabled(if: Tools.canCompare, "\(Tools.compareReason)"),
    .enabled(if: Tools.canLoop, "\(Tools.loopReason)"), .timeLimit(.minutes(20)))
struct MapTests {
    static let readable = ImageTrait.all.filter { !$0.huge && $0.format == "qcow2" }

    @Test("the device has the guest's bytes, and goes without a trace", arguments: readable)
    func bytes(trait: ImageTrait) throws {
        let image = try trait.made()
        let reference = try image.reference()
        let mapping = try Mapping(image.path, options: image.allowances, in: image.runFolder)
        #expect(mapping.device.hasPrefix("/dev/"), "\(mapping.device)")
        let size = try Command(["blockdev", "--getsize64", mapping.device]).succeed().output
        #expect(Int(size.trimmingCharacters(in: .whitespacesAndNewlines)) == (try fileSize(reference)))
        let difference = try differenceOfFiles(mapping.device, reference)
        #expect(difference == nil, "\(difference ?? "")")
        let outcome = try mapping.unmap()
        #expect(outcome.exit == 0, "\(outcome)")
        #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
        #expect(try mapping.listed() == nil)
    }

    @Test("a snapshot's device has the snapshot's bytes and size", arguments: ["small": 2 << 20, "large": 5 << 20])
    func snapshot(name: String, size: Int) throws {
        let image = try ImageTrait.named("snapshot-of-another-size").made()
        try Scratch.withFolder { folder in
            try Command(["qemu-img", "convert", "-l", name, "-O", "raw", image.path, "\(folder)/snapshot.raw"])
                .succeed()
            let mapping = try Mapping(image.path, options: ["--snapshot", name])
            let bytes = try Command(["blockdev", "--getsize64", mapping.device]).succeed().output
            #expect(bytes.hasPrefix("\(size)\n"), "\(bytes)")
            #expect(try differenceOfFiles(mapping.device, "\(folder)/snapshot.raw", limit: size) == nil)
            #expect(try mapping.unmap().exit == 0)
        }
    }

    @Test("standard output is the device's path and nothing else")
    func path() throws {
        let image = try ImageTrait.named("full").made()
        let mapping = try Mapping(image.path)
        #expect(mapping.device.wholeMatch(of: #/\/dev\/loop\d+/#) != nil, "\(mapping.device)")
        #expect(try mapping.unmap().output.isEmpty)
    }

    enum Handle: String, CaseIterable { case name, device, image }

    @Test("unmap takes the name, the device or the image", arguments: Handle.allCases)
    func unmapping(by handle: Handle) throws {
        let image = try ImageTrait.named("full").made()
        let mapping = try Mapping(image.path)
        let word =
            switch handle {
            case .name: mapping.name
            case .device: mapping.device
            case .image: image.path
            }
        let outcome = try qblk("unmap", word)
        #expect(outcome.exit == 0, "\(outcome)")
        #expect(mapping.leftoversAfterWaiting().isEmpty, "\(mapping.leftovers())")
    }

    @Test("a name in use is refused, and the map that has it lives on")
    func nameInUse() throws {
        let image = try ImageTrait.named("full").made()
        let mapping = try Mapping(image.path)
        #expect(throws: CommandFailure.self) { _ = try Mapping(image.path, name: mapping.name) }
        #expect(try differenceOfFiles(mapping.device, try image.reference()) == nil)
        #expect(try mapping.unmap().exit == 0)
    }

    @Test("two read-only maps of one image live side by side")
    func twice() throws {
        let image = try ImageTrait.named("chain-of-2").made()
        let first = try Mapping(image.path)
        let second = try Mapping(image.path)
        #expect(try first.unmap().exit == 0)
        #expect(try differenceOfFiles(second.device, try image.reference()) == nil)
        #expect(try second.unmap().exit == 0)
    }

    @Test("a read-only device refuses writes")
    func readOnly() throws {
        let image = try ImageTrait.named("full").made()
        let mapping = try Mapping(image.path)
        let write = try Command(["dd", "if=/dev/zero", "of=\(mapping.device)", "bs=4096", "count=1", "conv=fsync"])
            .run()
        #expect(write.exit != 0, "\(write)")
        #expect(try differenceOfFiles(mapping.device, try image.reference()) == nil)
        #expect(try mapping.unmap().exit == 0)
    }

    @Test("qemu-io may not write to an image that is mapped")
    func locked() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M")
            let mapping = try Mapping(builder.path("image.qcow2"))
            let write = try Command(["qemu-io", "-f", "qcow2", "-c", "write 0 512", builder.path("image.qcow2")]).run()
            #expect(write.exit != 0 && write.errors.contains("lock"), "\(write)")
            #expect(try mapping.unmap().exit == 0)
        }
    }

    @Test(
        "a partitioned image shows its partitions",
        .enabled(if: Tools.kernelReadsPartitions, "needs a kernel that reads GPT partition tables"))
    func partitions() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.run("truncate", "-s", "16M", "disk.raw")
            try Data("label: gpt\nsize=4M\nsize=8M\n".utf8).write(to: URL(filePath: builder.path("table")))
            try builder.run("sh", "-c", "sfdisk --quiet disk.raw < table")
            try builder.img("convert", "-f", "raw", "-O", "qcow2", "-c", "disk.raw", "image.qcow2")
            let mapping = try Mapping(builder.path("image.qcow2"))
            let size = try Command(["blockdev", "--getsize64", "\(mapping.device)p1"]).run()
            #expect(size.output.hasPrefix("4194304"), "\(size)")
            #expect(access("\(mapping.device)p2", F_OK) == 0)
            #expect(try mapping.unmap().exit == 0)
            #expect(access("\(mapping.device)p1", F_OK) != 0)
        }
    }

    @Test("list shows the map after the shell that made it is gone")
    func list() throws {
        let image = try ImageTrait.named("chain-of-2").made()
        let name = Mapping.freshName()
        let shell = try Command([
            "setsid", "--wait", "sh", "-c", "'\(Tools.qblk)' map '\(image.path)' -r --via loop --name \(name)",
        ]).run()
        try #require(shell.exit == 0, "\(shell)")
        defer { _ = try? qblk("unmap", name) }
        let people = try qblk("list")
        #expect(people.exit == 0 && people.output.contains(name), "\(people)")
        let entry = try #require(try qblk("list", "--json").json().array?.first { $0["name"]?.string == name })
        #expect(entry["device"]?.string == shell.output.trimmingCharacters(in: .whitespacesAndNewlines))
        #expect(entry["image"]?.string == image.path, "\(entry)")
        #expect(entry["size"]?.integer == 4 << 20, "\(entry)")
        #expect(entry["how"]?.string == "loop", "\(entry)")
    }
}
