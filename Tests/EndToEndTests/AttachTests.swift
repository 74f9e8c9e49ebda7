// Plugging into a VM changes three places at once: QEMU, processes, the registry. Whatever goes wrong and whenever,
// they must agree, and nothing may stay behind. QEMU is real; it needs no guest for this.

import Foundation
import TestKit
import Testing

enum AttachTools {
    static let missing =
        Tools.haveQblk ? (PausedMachine.missing ?? (Tools.haveQemu ? nil : Tools.qemuReason)) : Tools.qblkReason
}

@Suite(
    "Attached to a VM", .serialized, .disabled(if: AttachTools.missing != nil, "\(AttachTools.missing ?? "")"),
    .timeLimit(.minutes(20)))
struct AttachTests {
    /// A folder with a QCOW2 image and a registry.
    private func withAttachedDisks(_ body: (AttachedDisks) throws -> Void) throws {
        try Scratch.withFolder("attach") { folder in
            let builder = AttachedDisks(folder)
            defer { builder.clear() }
            let maker = ImageBuilder(folder: folder)
            try maker.create("64M", "preallocation=metadata")
            try maker.io(["write -P 0x5a 0 1M"])
            try body(builder)
        }
    }

    private func status(_ machine: PausedMachine, _ id: String) throws -> JSONValue {
        try machine.monitor().execute(
            "x-query-virtio-status", "{\"path\":\"/machine/peripheral/\(id)/virtio-backend\"}")
    }

    @Test("an image is in the VM, in the list, and locked; with the VM everything goes")
    func image() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder)
            let outcome = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp", "--queues", "4")
            #expect(outcome.exit == 0 && outcome.output == "qblk0\n" && outcome.errors.isEmpty, "\(outcome)")
            #expect(try machine.holdings() == ["qblk0", "qblk0-socket"])
            #expect(try status(machine, "qblk0")["num-vqs"]?.integer == 4)
            let entry = try #require(try builder.listed()["qblk0"])
            #expect(entry["state"]?.string == "alive" && entry["how"]?.string == "vhost-user", "\(entry)")
            #expect(entry["read-only"] == .bool(true) && entry["size"]?.integer == 64 << 20, "\(entry)")
            #expect(entry["qmp"]?.string == machine.qmp && entry["image"]?.string == "\(builder.folder)/image.qcow2")
            let write = ["qemu-io", "-f", "qcow2", "-c", "write 0 512", "\(builder.folder)/image.qcow2"]
            #expect(try Command(write).run().errors.contains("lock"))
            machine.end()
            #expect(builder.leftoversAfterWaiting().isEmpty, "\(builder.leftovers())")
            #expect(try Command(write).run().exit == 0)
        }
    }

    @Test("a name, a serial, packed rings and a second disk")
    func options() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder)
            let words = ["--id", "data", "--packed", "--serial", "S1", "--workers", "2", "--poll", "off", "--json"]
            let first = try builder.command(["attach", "image.qcow2", "-r", "--qmp", "vm.qmp"] + words).run()
            #expect(try first.json()["name"]?.string == "data", "\(first)")
            let second = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp")
            #expect(second.output == "qblk0\n", "\(second)")
            #expect(try machine.holdings() == ["data", "data-socket", "qblk0", "qblk0-socket"])
            #expect(try machine.monitor().property("packed", of: "/machine/peripheral/data") == .bool(true))
            let third = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp")
            #expect(third.exit == 1 && third.errors.contains("all 2 ports of this VM are in use"), "\(third)")
            #expect(third.errorLines.count == 1)
        }
    }

    @Test("two VMs may have disks of one id")
    func sameID() throws {
        try withAttachedDisks { builder in
            let one = try PausedMachine(in: builder.folder, name: "one")
            let two = try PausedMachine(in: builder.folder, name: "two")
            for name in ["one", "two"] {
                let outcome = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "\(name).qmp")
                #expect(outcome.output == "qblk0\n", "\(outcome)")
            }
            one.end()
            let end = try builder.qblk("detach", "qblk0", "--qmp", "one.qmp")
            #expect(end.errorLines.count <= 1, "\(end)")
            #expect(try two.holdings() == ["qblk0", "qblk0-socket"])
            #expect(try builder.listed()["qblk0"]?["state"]?.string == "alive")
        }
    }

    @Test(
        "a block device becomes a virtio-blk disk, as `info block` says",
        .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    func device() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder, sharedMemory: false)
            let loop = try Command(["losetup", "-r", "-f", "--show", "image.qcow2"], in: builder.folder).succeed()
                .output
                .trimmingCharacters(in: .whitespacesAndNewlines)
            defer { _ = try? Command(["losetup", "-d", loop]).run() }
            let refused = try builder.qblk("attach", loop, "-r", "--qmp", "vm.qmp")
            #expect(refused.exit == 1 && refused.errors.contains("holds a qcow2 image"), "\(refused)")
            let outcome = try builder.qblk("attach", loop, "-f", "raw", "-r", "--qmp", "vm.qmp", "--serial", "loop")
            #expect(outcome.exit == 0 && outcome.output == "qblk0\n", "\(outcome)")
            let blocks = try machine.monitor().execute("query-block").array ?? []
            let block = try #require(blocks.first { $0["qdev"]?.string?.contains("qblk0") == true }, "\(blocks)")
            #expect(block.at("inserted.file")?.string == loop, "\(block)")
            #expect(block.at("inserted.ro") == .bool(true))
            let size = try fileSize("\(builder.folder)/image.qcow2")
            #expect(block.at("inserted.image.virtual-size")?.integer == Int64(size))
            #expect(try builder.listed()["qblk0"]?["how"]?.string == "virtio-blk")
            machine.end()
            let end = try builder.qblk("detach", "qblk0", "--qmp", "vm.qmp")
            #expect(end.exit == 0 && end.errors.contains("its VM has ended"), "\(end)")
            #expect(builder.leftovers().isEmpty)
        }
    }

    struct Refusal: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var ports = 1
        var sharedMemory = true
        var image = "image.qcow2"
        var options: [String] = []
        let words: String
    }

    static let refusals = [
        Refusal(testDescription: "private memory", sharedMemory: false, words: "memory 'pc.ram' is not shared"),
        Refusal(testDescription: "no port", ports: 0, words: "no port to plug a device into"),
        Refusal(testDescription: "an id in use", options: ["--id", "port0"], words: "a device named 'port0'"),
        Refusal(testDescription: "no id", options: ["--id", "a,b"], words: "cannot be the id of a device"),
        Refusal(testDescription: "no such bus", options: ["--bus", "nowhere"], words: "Bus 'nowhere' not found"),
        Refusal(testDescription: "no such image", image: "none.qcow2", words: "none.qcow2: cannot open"),
        Refusal(testDescription: "no image", image: "noise.qcow2", options: ["-f", "qcow2"], words: "noise.qcow2"),
        Refusal(testDescription: "a raw image unsaid", image: "noise.raw", words: "noise.raw"),
    ]

    @Test("what cannot be is refused in one line, and nothing stays", arguments: refusals)
    func refused(_ refusal: Refusal) throws {
        try withAttachedDisks { builder in
            try ImageBuilder(folder: builder.folder).run(
                "sh", "-c", "head -c 1M /dev/urandom | tee noise.raw >noise.qcow2")
            let machine = try PausedMachine(
                in: builder.folder, ports: refusal.ports, sharedMemory: refusal.sharedMemory)
            let outcome = try builder.command(["attach", refusal.image, "--qmp", "vm.qmp"] + refusal.options).run()
            #expect(outcome.exit == 1 && outcome.output.isEmpty && outcome.errorLines.count == 1, "\(outcome)")
            #expect(outcome.errors.contains(refusal.words), "\(outcome)")
            #expect(try machine.holdings().isEmpty)
            #expect(builder.leftovers().isEmpty, "\(builder.leftovers())")
        }
    }

    @Test("a monitor that another client holds is told from a VM that is not there")
    func monitors() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder)
            let other = try machine.monitor()
            let busy = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp")
            #expect(busy.exit == 1 && busy.errors.contains("another program has this monitor"), "\(busy)")
            try other.execute("query-status")
            let none = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "none.qmp")
            #expect(none.exit == 1 && none.errors.contains("-qmp unix:none.qmp,server=on,wait=off"), "\(none)")
            machine.end()
            let gone = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp")
            #expect(gone.exit == 1 && gone.errors.contains("no QEMU listens there"), "\(gone)")
            #expect(builder.leftovers().isEmpty)
        }
    }

    @Test("detach says what is wrong with an id, and with a guest that does not let go")
    func detaching() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder)
            #expect(try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp").exit == 0)
            let unknown = try builder.qblk("detach", "nothing", "--qmp", "vm.qmp")
            #expect(unknown.exit == 1 && unknown.errors.contains("nothing: is not attached to this VM"), "\(unknown)")
            let foreign = try builder.qblk("detach", "port0", "--qmp", "vm.qmp")
            #expect(foreign.exit == 1 && foreign.errors.contains("qblk did not attach"), "\(foreign)")
            // Nothing runs in this VM: its guest cannot answer.
            let stuck = try builder.qblk("detach", "qblk0", "--qmp", "vm.qmp", "--timeout", "1")
            #expect(stuck.exit == 1 && stuck.errors.contains("the VM does not run (prelaunch)"), "\(stuck)")
            #expect(stuck.errors.contains("let the VM run (QMP: cont)") && stuck.errorLines.count == 1, "\(stuck)")
            // It runs, and its firmware does not look.
            try machine.monitor().execute("cont")
            let busy = try builder.qblk("detach", "qblk0", "--qmp", "vm.qmp", "--timeout", "1")
            #expect(busy.exit == 1 && busy.errors.contains("did not let go of the disk within 1 s"), "\(busy)")
            try machine.monitor().execute("stop")
            let paused = try builder.qblk("detach", "qblk0", "--qmp", "vm.qmp", "--timeout", "1")
            #expect(paused.exit == 1 && paused.errors.contains("the VM does not run (paused)"), "\(paused)")
            #expect(try builder.listed()["qblk0"]?["state"]?.string == "alive")
            let unmap = try builder.qblk("unmap", "qblk0")
            #expect(unmap.exit == 1 && unmap.errors.contains("qblk detach qblk0 --qmp \(machine.qmp)"), "\(unmap)")
            machine.end()
            #expect(builder.leftoversAfterWaiting().isEmpty)
            let gone = try builder.qblk("detach", "qblk0", "--qmp", "vm.qmp")
            #expect(gone.exit == 1 && gone.errors.contains("no VM is at"), "\(gone)")
        }
    }

    @Test("a server that is killed is started again, and the VM talks to the new one")
    func restart() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder)
            #expect(try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp").exit == 0)
            let first = try #require(try builder.listed()["qblk0"]?["server-pid"]?.integer)
            kill(pid_t(first), SIGKILL)
            var second = first
            for _ in 0..<200 where second == first {
                usleep(50_000)
                second = try builder.listed()["qblk0"]?["server-pid"]?.integer ?? first
            }
            #expect(second != first)
            var isOpen = false
            for _ in 0..<100 where !isOpen {
                usleep(50_000)
                let chardevs = try machine.monitor().execute("query-chardev").array ?? []
                isOpen = chardevs.contains {
                    $0["label"]?.string == "qblk0-socket" && $0["frontend-open"] == .bool(true)
                }
            }
            #expect(isOpen, "QEMU did not reconnect")
            #expect(try builder.listed()["qblk0"]?["state"]?.string == "alive")
        }
    }

    /// The server of a disk, once it is another than `old`.
    private func newServer(_ builder: AttachedDisks, after old: Int64) throws -> Int64 {
        for _ in 0..<200 {
            usleep(50_000)
            let next = try builder.listed()["qblk0"]?["server-pid"]?.integer ?? old
            if next != old { return next }
        }
        throw TestFailure("no other server came")
    }

    private func expectConnected(_ machine: PausedMachine) throws {
        for _ in 0..<100 {
            let chardevs = try machine.monitor().execute("query-chardev").array ?? []
            if chardevs.contains(where: {
                $0["label"]?.string == "qblk0-socket" && $0["frontend-open"] == .bool(true)
            }) {
                return
            }
            usleep(50_000)
        }
        Issue.record("QEMU did not reconnect")
    }

    @Test("SIGHUP to the supervisor takes nothing away")
    func hangUp() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder)
            #expect(try builder.qblk("attach", "image.qcow2", "--qmp", "vm.qmp").exit == 0)
            let entry = try #require(try builder.listed()["qblk0"])
            let supervisor = try #require(entry["supervisor-pid"]?.integer)
            for _ in 0..<3 {
                kill(pid_t(supervisor), SIGHUP)
                usleep(200_000)
            }
            let after = try #require(try builder.listed()["qblk0"])
            #expect(after["state"]?.string == "alive" && after["server-pid"] == entry["server-pid"], "\(after)")
            try expectConnected(machine)
            kill(pid_t(supervisor), SIGTERM)
        }
    }

    @Test("a disk that lost supervisor and server is mended by the next attach")
    func mended() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder)
            #expect(try builder.qblk("attach", "image.qcow2", "--qmp", "vm.qmp").exit == 0)
            let entry = try #require(try builder.listed()["qblk0"])
            let old = try #require(entry["server-pid"]?.integer)
            for name in ["supervisor-pid", "server-pid"] {
                kill(pid_t(try #require(entry[name]?.integer)), SIGKILL)
            }
            try Command(["qemu-img", "create", "-q", "-f", "qcow2", "other.qcow2", "1M"], in: builder.folder).succeed()
            let other = try builder.qblk("attach", "other.qcow2", "--qmp", "vm.qmp")
            #expect(other.output == "qblk1\n", "\(other)")
            let mended = try #require(try builder.listed()["qblk0"])
            #expect(mended["state"]?.string == "alive" && mended["server-pid"]?.integer != old, "\(mended)")
            try expectConnected(machine)
            #expect(try machine.holdings() == ["qblk0", "qblk0-socket", "qblk1", "qblk1-socket"])
        }
    }

    @Test("a server that follows a killed one has the image that it had, whatever became of its name")
    func renamed() throws {
        try withAttachedDisks { builder in
            let maker = ImageBuilder(folder: builder.folder)
            try maker.create("64M", "preallocation=metadata", as: "other.qcow2")
            let machine = try PausedMachine(in: builder.folder)
            #expect(try builder.qblk("attach", "image.qcow2", "--qmp", "vm.qmp").exit == 0)
            let first = try #require(try builder.listed()["qblk0"]?["server-pid"]?.integer)
            try maker.run("sh", "-c", "mv image.qcow2 old.qcow2; mv other.qcow2 image.qcow2")
            kill(pid_t(first), SIGKILL)
            _ = try newServer(builder, after: first)
            try expectConnected(machine)
            // Whose lock it holds tells which file it has.
            for (name, isHeld) in [("old.qcow2", true), ("image.qcow2", false)] {
                let write = try Command(["qemu-io", "-f", "qcow2", "-c", "write 0 512", "\(builder.folder)/\(name)"])
                    .run()
                #expect(write.errors.contains("lock") == isHeld, "\(name): \(write)")
            }
        }
    }

    @Test("a disk attached by a symbolic link has the backing file that the link's folder has")
    func link() throws {
        try withAttachedDisks { builder in
            let maker = ImageBuilder(folder: builder.folder)
            try maker.run("mkdir", "sub", "other")
            for place in ["sub/base", "other/base"] { try maker.create("1M", as: place) }
            try maker.run(
                "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "qcow2", "other/top", "1M")
            try maker.run("ln", "-s", "../other/top", "sub/link")
            let machine = try PausedMachine(in: builder.folder)
            let outcome = try builder.qblk("attach", "-f", "qcow2", "sub/link", "--qmp", "vm.qmp")
            #expect(outcome.exit == 0, "\(outcome)")
            try expectConnected(machine)
            // The server's lock tells which file it has.
            for (name, isHeld) in [("sub/base", true), ("other/base", false)] {
                let write = try Command(["qemu-io", "-f", "qcow2", "-c", "write 0 512", "\(builder.folder)/\(name)"])
                    .run()
                #expect(write.errors.contains("lock") == isHeld, "\(name): \(write)")
            }
        }
    }

    @Test("a disk whose image has another file's name is not mended with that file")
    func replaced() throws {
        try withAttachedDisks { builder in
            let maker = ImageBuilder(folder: builder.folder)
            try maker.create("64M", "preallocation=metadata", as: "other.qcow2")
            let machine = try PausedMachine(in: builder.folder)
            #expect(try builder.qblk("attach", "image.qcow2", "--qmp", "vm.qmp").exit == 0)
            let entry = try #require(try builder.listed()["qblk0"])
            for name in ["supervisor-pid", "server-pid"] {
                kill(pid_t(try #require(entry[name]?.integer)), SIGKILL)
            }
            try maker.run("sh", "-c", "mv image.qcow2 old.qcow2; cp other.qcow2 image.qcow2")
            #expect(try builder.qblk("attach", "other.qcow2", "-r", "--qmp", "vm.qmp").exit == 0)
            #expect(try builder.listed()["qblk0"]?["state"]?.string == "degraded")
            let write = try Command(["qemu-io", "-f", "qcow2", "-c", "write 0 512", "\(builder.folder)/image.qcow2"])
                .run()
            #expect(write.exit == 0, "\(write)")
            // With its name back it is mended.
            try maker.run("sh", "-c", "mv old.qcow2 image.qcow2")
            // Both ports are in use: the command fails, and looks after the other disks first.
            let third = try builder.qblk("attach", "other.qcow2", "-r", "--qmp", "vm.qmp")
            #expect(third.exit == 1 && third.errors.contains("ports of this VM are in use"), "\(third)")
            #expect(try builder.listed()["qblk0"]?["state"]?.string == "alive")
            try expectConnected(machine)
        }
    }

    @Test("attach that is killed at any moment is cleaned up by the next")
    func killed() throws {
        try withAttachedDisks { builder in
            let machine = try PausedMachine(in: builder.folder, ports: 30)
            for step in 0..<24 {
                var victim = try builder.command(["attach", "image.qcow2", "-r", "--qmp", "vm.qmp"]).spawn()
                usleep(useconds_t(step * 5_000))
                victim.end()
            }
            let outcome = try builder.qblk("attach", "image.qcow2", "-r", "--qmp", "vm.qmp", "--id", "last")
            #expect(outcome.output == "last\n", "\(outcome)")
            // Those that had come into the VM stay; no other has a process, a socket or a folder.
            let disks = try machine.holdings().filter { !$0.hasSuffix("-socket") }
            #expect(try machine.holdings() == (disks + disks.map { "\($0)-socket" }).sorted())
            #expect(try builder.listed().keys.sorted() == disks)
            #expect(try builder.listed().values.allSatisfy { $0["state"]?.string == "alive" })
            #expect(builder.leftovers().count == 3 * disks.count, "\(builder.leftovers())")
            machine.end()
            #expect(builder.leftoversAfterWaiting().isEmpty, "\(builder.leftovers())")
        }
    }

    @Test("QEMU takes the arguments that serve prints", arguments: [1, 4])
    func advice(queues: Int) throws {
        try withAttachedDisks { builder in
            let server = try DiskServer(
                "\(builder.folder)/image.qcow2", format: "qcow2", socket: "\(builder.folder)/disk,1.sock",
                readOnly: true,
                queues: queues)
            let printed = try builder.qblk(
                "serve", "--socket-path", server.socket, "--queues", "\(queues)", "--print-qemu-args")
            #expect(printed.exit == 0, "\(printed)")
            let words = printed.output.split(whereSeparator: \.isWhitespace).map(String.init)
            let machine = try PausedMachine(in: builder.folder, ports: 0, sharedMemory: false, options: words)
            #expect(try status(machine, "qblk0")["num-vqs"]?.integer == Int64(queues))
            #expect(try machine.holdings() == ["qblk0", "qblk0-socket"])
            let xml = try builder.qblk(
                "serve", "--socket-path", server.socket, "--queues", "\(queues)", "--print-libvirt-xml")
            #expect(xml.output.contains("<source type='unix' path='\(server.socket)'>"), "\(xml)")
            #expect(xml.output.contains("queues='\(queues)'") && xml.output.contains("<access mode='shared'/>"))
        }
    }
}
