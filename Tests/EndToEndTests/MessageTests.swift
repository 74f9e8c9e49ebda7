// An error line that misleads costs an hour. Each of these says what is wrong, of the file that it is wrong with.

import Foundation
import TestKit
import Testing

@Suite("Errors say what is wrong", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct MessageTests {
    private func words(_ line: String) -> [String] { line.split(separator: " ").map(String.init) }

    @Test(
        "a file that is not there, and a directory, are called that",
        arguments: [
            "map", "map -r", "serve --socket-path s", "serve -r --socket-path s", "resize --shrink -q", "check -r all",
            "bench",
            "bench --rw write --destroy", "info", "table",
        ])
    func missing(verb: String) throws {
        try Scratch.withFolder { folder in
            let size = verb.hasPrefix("resize") ? ["1M"] : []
            let missing = try qblk(words(verb) + ["missing"] + size, in: folder)
            #expect(missing.exit == 1 && missing.errors.contains("No such file"), "\(missing)")
            let directory = try qblk(words(verb) + ["."] + size, in: folder)
            #expect(directory.exit == 1 && directory.errors.contains("is a directory"), "\(directory)")
            for outcome in [missing, directory] {
                #expect(outcome.errorLines.count == 1 && !outcome.errors.contains("guessed"), "\(outcome)")
            }
        }
    }

    @Test("an output that is full is blamed, not the source", arguments: ["qcow2", "raw"])
    func full(format: String) throws {
        guard geteuid() == 0 else { return }
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.rawFile("source", 8 << 20)
            let script = """
                mkdir small && mount -t tmpfs -o size=2M none small && trap 'umount small' EXIT
                qemu-img create -q -f \(format) small/target 8M
                '\(Tools.qblk)' convert -n -f raw -O \(format) source small/target
                """
            let outcome = try Command(["bash", "-c", script], in: folder).run()
            #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.hasPrefix("qblk: small/target: "), "\(outcome)")
            #expect(outcome.errors.contains("No space left"), "\(outcome)")
        }
    }

    @Test("convert gives no advice that it cannot take")
    func advice() throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("1M", as: "a.qcow2")
            for backing in ["missing", "nbd:host"] {
                let line = ["-O", "qcow2", "-b", backing, "-F", "raw", "a.qcow2", "out"]
                let outcome = try qblk(["convert"] + line, in: folder)
                #expect(outcome.exit == 1 && !outcome.errors.contains("-u"), "\(outcome)")
                let create = try qblk("create", "-f", "qcow2", "-b", backing, "-F", "raw", "out", "1M", in: folder)
                #expect(create.exit == 1 && create.errors.contains("say -u"), "\(create)")
            }
        }
    }

    @Test("an image that a server holds is said to be held by it")
    func served() throws {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("1M", as: "a.qcow2")
            var server = try Command([Tools.qblk, "serve", "a.qcow2", "--socket-path", "s"], in: folder).spawn()
            defer { server.end() }
            let end = Date.now + 20
            while !FileManager.default.fileExists(atPath: "\(folder)/s"), Date.now < end { usleep(10_000) }
            for line in ["resize a.qcow2 2M", "compare a.qcow2 a.qcow2", "convert a.qcow2 out"] {
                let outcome = try qblk(words(line), in: folder)
                #expect(outcome.errors.contains("lock: qblk (process \(server.pid)) has it open"), "\(outcome)")
            }
        }
    }

    @Test(
        "an image that is mapped is said to be the map, also under another name",
        .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    func mapped() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "a.qcow2")
            let environment = ["QBLK_RUN_DIR": "\(folder)/run"]
            func qblk(_ line: String) throws -> Outcome {
                var command = Command([Tools.qblk] + words(line), in: folder)
                command.environment = environment
                return try command.run()
            }
            let map = try qblk("map --name disk a.qcow2")
            try #require(map.exit == 0, "\(map)")
            defer { _ = try? qblk("unmap disk") }
            let device = map.output.trimmingCharacters(in: .whitespacesAndNewlines)
            try Command(["ln", "a.qcow2", "other.qcow2"], in: folder).succeed()
            for name in ["a.qcow2", "other.qcow2"] {
                let outcome = try qblk("resize \(name) 2M")
                #expect(outcome.exit == 1 && outcome.errors.contains("it is mapped as disk (\(device))"), "\(outcome)")
            }
        }
    }

    @Test(
        "an output that is a link to nothing is made where the link leads, as qemu-img does",
        arguments: [
            "create -f qcow2 link 1M", "convert -O raw a.qcow2 link", "convert -O qcow2 a.qcow2 link",
        ])
    func dangling(line: String) throws {
        for target in ["target", "sub/target", "./sub/../target", "second"] {
            try Scratch.withFolder { folder in
                let builder = ImageBuilder(folder: folder)
                try builder.create("1M", as: "a.qcow2")
                try Command(
                    ["sh", "-c", "mkdir sub; ln -s sub/third second; ln -s \(target) link; ls -lR >before"], in: folder
                )
                .succeed()
                let outcome = try qblk(words(line), in: folder)
                #expect(outcome.exit == 0 && outcome.errors.isEmpty, "\(outcome)")
                let type = try Command(["stat", "-c", "%F", "link"], in: folder).succeed().output
                #expect(type == "symbolic link\n")
                let real = try Command(["realpath", "link"], in: folder).succeed().output
                let wanted = [
                    "target": "target", "sub/target": "sub/target", "./sub/../target": "target", "second": "sub/third",
                ]
                #expect(real == "\(folder)/\(wanted[target] ?? "")\n")
                #expect(try fileSize("\(folder)/link") > 0)
            }
        }
    }

    @Test("an output that is a link into nowhere, or to itself, is an error and leaves the link")
    func nowhere() throws {
        try Scratch.withFolder { folder in
            try Command(["sh", "-c", "ln -s no/where link; ln -s self self"], in: folder).succeed()
            for name in ["link", "self"] {
                let outcome = try qblk("create", "-q", "-f", "raw", name, "1M", in: folder)
                #expect(outcome.exit == 1 && outcome.errorLines.count == 1, "\(outcome)")
                #expect(try Command(["test", "-L", name], in: folder).run().exit == 0)
            }
        }
    }

    @Test("what cannot be finished behind a link leaves the link, and no file")
    func abandoned() throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("1M", as: "a.qcow2")
            try Command(["sh", "-c", "ln -s target link"], in: folder).succeed()
            // The data file is the image itself.
            let outcome = try qblk("create", "-q", "-f", "qcow2", "-o", "data_file=link", "link", "1M", in: folder)
            #expect(outcome.exit == 1, "\(outcome)")
            #expect(try Command(["test", "-L", "link"], in: folder).run().exit == 0)
            #expect(!FileManager.default.fileExists(atPath: "\(folder)/target"))
        }
    }
}
