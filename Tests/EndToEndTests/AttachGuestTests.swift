// Only a guest can say that a disk appeared, that it is the right one, and that it let go of it. Both kinds of
// machines take disks while they run, each in its own way.

import Foundation
import TestKit
import Testing

@Suite(
    "Attached to a running guest", .serialized, .disabled(if: DiskGuest.missing != nil, "\(DiskGuest.missing ?? "")"),
    .disabled(if: DiskServer.isPeer, "attach starts our own server"), .timeLimit(.minutes(20)))
struct AttachGuestTests {
    @Test(
        "a disk comes, is written, outlives its server, and goes; another is read",
        arguments: ["q35": ["--ports", "2"], "pc": []])
    func disks(machine kind: String, options: [String]) throws {
        try Scratch.withFolder { folder in
            let builder = AttachedDisks(folder)
            defer { builder.clear() }
            let raw = try PartitionedDisk.blank(in: folder)
            let image = try FilesystemImage(in: folder)
            let machine = try GuestMachine(options: options, folder: folder)
            defer { machine.end() }
            try attach(builder, machine, raw, as: "data", "/dev/vda", ["-f", "raw", "--queues", "2"])
            try attach(builder, machine, image.path, as: "image", "/dev/vdb", ["-r"])
            #expect(try machine.succeed("cat /sys/block/vda/serial; echo; blockdev --getro /dev/vdb") == "data\n1")
            try PartitionedDisk.use(machine)
            try image.read(machine)
            try loseServer(builder, machine)
            for (id, device) in [("data", "vda"), ("image", "vdb")] {
                let outcome = try builder.qblk("detach", id, "--qmp", machine.qmpPath)
                #expect(outcome.exit == 0 && outcome.output.isEmpty && outcome.errors.isEmpty, "\(outcome)")
                #expect(try machine.run("test -e /dev/\(device)").status == 1)
            }
            #expect(builder.leftovers().isEmpty, "\(builder.leftovers())")
            try PartitionedDisk.check(in: folder, seed: "--randseed=5")
            // The ports are free again.
            try attach(builder, machine, image.path, as: "again", "/dev/vda", ["-r"])
            machine.end()
            #expect(builder.leftoversAfterWaiting().isEmpty, "\(builder.leftovers())")
        }
    }

    private func attach(
        _ builder: AttachedDisks, _ machine: GuestMachine, _ image: String, as id: String, _ device: String,
        _ options: [String]
    ) throws {
        let words = ["attach", image, "--qmp", machine.qmpPath, "--id", id]
        let outcome = try builder.command(words + options).run()
        #expect(outcome.exit == 0 && outcome.output == "\(id)\n", "\(outcome)")
        try machine.wait(until: "test -b \(device)")
    }

    /// The writable disk's server is killed while the guest works; the guest must not notice more than a pause.
    private func loseServer(_ builder: AttachedDisks, _ machine: GuestMachine) throws {
        let job = PartitionedDisk.fio("/dev/vda2", "--randseed=5")
        try machine.succeed("(\(job) >/tmp/out 2>&1; echo $? >/tmp/status) &")
        try machine.wait(until: "test $(awk '{ print $1 + $2 }' /sys/block/vda/inflight) -gt 0")
        let server = try #require(try builder.listed()["data"]?["server-pid"]?.integer)
        kill(pid_t(server), SIGKILL)
        try machine.wait(until: "test -s /tmp/status", deadline: 90)
        #expect(try machine.succeed("cat /tmp/status /tmp/out").hasPrefix("0\n"))
        #expect(try machine.run("dmesg | grep 'I/O error'").status == 1)
        #expect(try builder.listed()["data"]?["server-pid"]?.integer != server)
    }
}
