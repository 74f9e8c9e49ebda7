// `resize` and qemu-img resize must leave the same disk, refuse the same things, and leave an image that qemu-img
// finds clean.

import Foundation
import TestKit
import Testing

@Suite("Resize agrees with qemu-img", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ResizeTests {
    struct Case: Sendable, CustomStringConvertible {
        let create: [String]
        let resize: [String]
        var description: String { "\(create.joined(separator: " ")): \(resize.joined(separator: " "))" }
        init(_ create: String, _ resize: String) {
            self.create = create.split(separator: " ").map(String.init)
            self.resize = resize.split(separator: " ").map(String.init)
        }
    }

    static let kinds = [
        "-f qcow2 image 1M", "-f qcow2 -o cluster_size=512 image 1M", "-f qcow2 -o cluster_size=2M image 1M",
        "-f qcow2 -o extended_l2=on image 1M", "-f qcow2 -o compat=0.10 image 1M",
        "-f qcow2 -o refcount_bits=1,cluster_size=4k image 1M", "-f qcow2 -o data_file=data image 1M",
        "-f qcow2 -o data_file=data,data_file_raw=on image 1M", "-f qcow2 -b base -F raw image 1M",
        "-f qcow2 -o extended_l2=on -b base -F raw image 1000448", "-f qcow2 -o cluster_size=4k image 1000448",
        "-f raw image 1M", "-f raw image 1000001",
    ]
    static let changes = [
        "image 3M", "image +4G", "image 1M", "image +512", "--shrink image 512k", "--shrink image 512",
        "--shrink image -300k", "--preallocation=full image 2M", "--preallocation=falloc image +1500k",
        "--preallocation=metadata image 3M", "image 500k", "image 0", "--shrink image -5M", "image +1",
        "--preallocation=full --shrink image 512k", "image 4E", "image 9E",
    ]
    static let cases = kinds.flatMap { kind in
        changes.map { change in Case(kind, (kind.hasPrefix("-f raw") ? "-f raw " : "-f qcow2 ") + change) }
    }

    private func make(_ one: Case, in folder: String) throws {
        try Command(["sh", "-c", "head -c 2M /dev/zero | tr '\\0' x > base"], in: folder).succeed()
        try Command(["qemu-img", "create", "-q"] + one.create, in: folder).succeed()
        let format = one.create[1]
        try Command(["qemu-io", "-f", format, "-c", "write -P 5 0 700k", "image"], in: folder).succeed()
    }

    @Test("the disk, the exit code and what is refused are the same", arguments: cases)
    func same(one: Case) throws {
        try Scratch.withFolder { folder in
            let (ours, theirs) = ("\(folder)/ours", "\(folder)/theirs")
            for part in [ours, theirs] {
                try FileManager.default.createDirectory(atPath: part, withIntermediateDirectories: false)
                try make(one, in: part)
            }
            let our = try qblk(["resize"] + one.resize, in: ours)
            let their = try Command(["qemu-img", "resize"] + one.resize, in: theirs).run()
            #expect(our.exit == their.exit, "\(our) \(their)")
            #expect(our.output == their.output)
            let format = one.create[1]
            func size(_ folder: String) throws -> String? {
                let info = try qemuImg("info", "-f", format, "--output=json", "image", in: folder).json()
                return "\(String(describing: info["virtual-size"]))"
            }
            #expect(try size(ours) == size(theirs))
            // Each from its own folder: that is where QEMU looks for a data file.
            for part in [ours, theirs] {
                try Command(["qemu-img", "convert", "-f", format, "-O", "raw", "image", "disk"], in: part).succeed()
            }
            try Command(["qemu-img", "compare", "-f", "raw", "-F", "raw", "ours/disk", "theirs/disk"], in: folder)
                .succeed()
            if format == "qcow2" { try Command(["qemu-img", "check", "-f", format, "image"], in: ours).succeed() }
        }
    }

    @Test(
        "version 2 with snapshots is refused, version 3 grows and shrinks and keeps them", arguments: ["0.10", "1.1"])
    func snapshots(compat: String) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try Command(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=\(compat)", "image", "4M"], in: folder
            )
            .succeed()
            try builder.io(["write -P 7 0 4M"], on: "image")
            try builder.img("snapshot", "-c", "one", "image")
            try builder.io(["write -P 8 1M 2M"], on: "image")
            let grown = try qblk("resize", "-f", "qcow2", "image", "2T", in: folder)
            let shrunk = try qblk("resize", "-f", "qcow2", "--shrink", "image", "2M", in: folder)
            #expect(grown.exit == (compat == "1.1" ? 0 : 1) && shrunk.exit == grown.exit, "\(grown) \(shrunk)")
            try builder.img("check", "image")
            guard compat == "1.1" else { return }
            try Command(
                ["qemu-io", "-f", "qcow2", "-c", "read -P 7 0 1M", "-c", "read -P 8 1M 1M", "image"], in: folder
            ).succeed()
            try builder.img("snapshot", "-a", "one", "image")
            try Command(["qemu-io", "-f", "qcow2", "-c", "read -P 7 0 4M", "image"], in: folder).succeed()
            try builder.img("check", "image")
        }
    }

    @Test("bytes that an image had behind its end do not come back when it grows")
    func tail() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "image")
            try builder.io(["write -P 7 0 1M"], on: "image")
            #expect(try qblk("resize", "-f", "qcow2", "-q", "--shrink", "image", "500k", in: folder).exit == 0)
            #expect(try qblk("resize", "-f", "qcow2", "-q", "image", "1M", in: folder).exit == 0)
            try Command(
                ["qemu-io", "-f", "qcow2", "-c", "read -P 7 0 500k", "-c", "read -P 0 500k 524k", "image"], in: folder
            ).succeed()
        }
    }

    @Test("an image with bitmaps is refused, and stays as it is")
    func bitmaps() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "image")
            try builder.img("bitmap", "--add", "image", "b")
            let outcome = try qblk("resize", "-f", "qcow2", "image", "2M", in: folder)
            #expect(outcome.exit == 1 && outcome.errors.contains("bitmap"), "\(outcome)")
        }
    }

    @Test("an image that is in use is refused")
    func locked() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "image")
            let script = """
                qemu-io -f qcow2 -c 'sleep 6000' image >/dev/null 2>&1 & user=$!
                while ! grep -q ":$(stat -c %i image) " /proc/locks; do sleep 0.1; done
                '\(Tools.qblk)' resize -f qcow2 image 2M 2>&1; echo "exit $?"
                kill $user
                """
            let outcome = try Command(["sh", "-c", script], in: folder).run()
            #expect(outcome.output.contains("lock") && outcome.output.contains("exit 1"), "\(outcome)")
        }
    }
}
