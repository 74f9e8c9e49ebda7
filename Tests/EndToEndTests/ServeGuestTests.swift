// The promise of `qblk serve` is made to virtual machines, so a real one holds it against us: QEMU's front-end,
// Debian's kernel, one queue and four, split rings and packed ones.

import Foundation
import TestKit
import Testing

/// How a disk is plugged in.
struct DiskShape: CustomTestStringConvertible, Sendable {
    let queues: Int
    let packed: Bool
    var testDescription: String { "\(queues) queue\(queues > 1 ? "s" : ""), \(packed ? "packed" : "split")" }

    static let split = [DiskShape(queues: 1, packed: false), DiskShape(queues: 4, packed: false)]
    static let packed = [DiskShape(queues: 1, packed: true), DiskShape(queues: 4, packed: true)]
    /// QEMU's own server has no packed rings.
    static let all = DiskServer.isPeer ? split : split + packed

    func word(_ socket: String) -> String { "\(socket),queues=\(queues),packed=\(packed ? "on" : "off")" }
}

/// What may be missing for a guest with a disk of ours.
enum DiskGuest {
    static let missing = DiskServer.missing ?? GuestMachine.missing ?? tools
    private static let tools: String? = {
        let lacking = ["fio", "sfdisk", "mke2fs", "e2fsck", "debugfs", "qemu-img"].filter { !Tools.have($0) }
        return lacking.isEmpty ? nil : "needs \(lacking.joined(separator: ", "))"
    }()
}

/// A disk from its first partition to its last byte. Two guests run beside each other: each keeps one processor busy.
enum ServedDisk {
    static func use(shape: DiskShape) throws {
        try Scratch.withFolder { folder in
            let raw = try DiskServer(
                try PartitionedDisk.blank(in: folder), format: "raw", socket: "\(folder)/raw.sock",
                queues: shape.queues, options: ["--serial", "raw-disk"])
            let image = try FilesystemImage(in: folder)
            let qcow2 = try DiskServer(
                image.path, format: "qcow2", socket: "\(folder)/qcow2.sock", readOnly: true, queues: shape.queues)
            let machine = try GuestMachine(
                disks: [shape.word(raw.socket), shape.word(qcow2.socket)], cpus: shape.queues, folder: folder)
            defer { machine.end() }
            try identity(machine, shape, qcow2Size: image.size)
            try PartitionedDisk.use(machine)
            try image.read(machine)
            try machine.shutDown()
            for server in [raw, qcow2] {
                let end = server.stop()
                #expect(end?.exit == 0, "SIGTERM is an orderly end: \(String(describing: end))")
            }
            try PartitionedDisk.check(in: folder)
        }
    }

    /// The guest's driver and QEMU's monitor agree on what the disks are.
    private static func identity(_ machine: GuestMachine, _ shape: DiskShape, qcow2Size: Int) throws {
        #expect(try machine.succeed("blockdev --getsize64 /dev/vda") == "\(PartitionedDisk.size)")
        #expect(try machine.succeed("blockdev --getsize64 /dev/vdb") == "\(qcow2Size)")
        #expect(try machine.succeed("blockdev --getro /dev/vda /dev/vdb") == "0\n1")
        #expect(
            try machine.succeed("ls /sys/block/vda/mq /sys/block/vdb/mq | grep -c '^[0-9]'") == "\(2 * shape.queues)")
        if !DiskServer.isPeer { #expect(try machine.succeed("cat /sys/block/vda/serial") == "raw-disk") }
        // VIRTIO_F_RING_PACKED is bit 34, VIRTIO_BLK_F_RO bit 5: counted from the left, from 1.
        for (disk, readOnly) in [("vda", "0"), ("vdb", "1")] {
            let features = "/sys/block/\(disk)/device/features"
            #expect(try machine.succeed("cut -c 35 \(features)") == (shape.packed ? "1" : "0"))
            #expect(try machine.succeed("cut -c 6 \(features)") == readOnly)
        }
        let monitor = try machine.monitor()
        for disk in ["vhost-disk0", "vhost-disk1"] {
            let status = try monitor.execute(
                "x-query-virtio-status", "{\"path\":\"/machine/peripheral/\(disk)/virtio-backend\"}")
            #expect(status["num-vqs"]?.integer == Int64(shape.queues), "\(status)")
            #expect(status["vhost-started"] == .bool(true), "\(status)")
        }
    }
}

@Suite(
    "Split rings, served to a guest", .serialized,
    .disabled(if: DiskGuest.missing != nil, "\(DiskGuest.missing ?? "")"), .timeLimit(.minutes(20)))
struct ServeSplitGuestTests {
    @Test("a disk is partitioned, filled, verified and read back, inside and outside", arguments: DiskShape.split)
    func disks(shape: DiskShape) throws { try ServedDisk.use(shape: shape) }
}

@Suite(
    "Packed rings, served to a guest", .serialized,
    .disabled(if: DiskGuest.missing != nil, "\(DiskGuest.missing ?? "")"),
    .disabled(if: DiskServer.isPeer, "QEMU's own server has no packed rings"), .timeLimit(.minutes(20)))
struct ServePackedGuestTests {
    @Test("a disk is partitioned, filled, verified and read back, inside and outside", arguments: DiskShape.packed)
    func disks(shape: DiskShape) throws { try ServedDisk.use(shape: shape) }
}

@Suite(
    "Served to a guest", .serialized, .disabled(if: DiskGuest.missing != nil, "\(DiskGuest.missing ?? "")"),
    .timeLimit(.minutes(20)))
struct ServeGuestTests {
    @Test(
        "kill -9 of the server under load is a pause: every request is answered, every byte is right",
        .disabled(if: DiskServer.isPeer, "QEMU's own server forgets what was in flight"),
        arguments: [DiskShape(queues: 1, packed: false), DiskShape(queues: 4, packed: true)], ["raw", "qcow2"])
    func killed(shape: DiskShape, format: String) throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/disk.\(format)"
            try Command(["qemu-img", "create", "-q", "-f", format, path, "128M"]).succeed()
            let server = try DiskServer(path, format: format, socket: "\(folder)/s.sock", queues: shape.queues)
            let machine = try GuestMachine(disks: [shape.word(server.socket)], cpus: shape.queues, folder: folder)
            defer { machine.end() }
            try machine.succeed("(\(Load.rounds)) >/tmp/fio.out 2>&1 &")
            for _ in 0..<3 {
                try machine.wait(until: Load.isMoving, deadline: 60)
                try Load.kill(server, in: machine)
                try server.start()
            }
            try machine.succeed("touch /tmp/stop")
            try machine.wait(until: "test -s /tmp/fio.status", whileMoving: "cat /sys/block/vda/stat")
            #expect(try machine.succeed("cat /tmp/fio.status /tmp/fio.out").hasPrefix("0\n"))
            let round = try machine.succeed("cat /tmp/round")
            let again = try machine.run(
                "echo 3 >/proc/sys/vm/drop_caches; \(Load.verify("/dev/vda", round))", deadline: 180)
            #expect(again.status == 0, "\(again)")
            #expect(try machine.run("dmesg | grep -E 'I/O error|timeout'").status == 1)
            try machine.shutDown()
            #expect(server.stop()?.exit == 0)
            try expectSound(path, format, in: folder)
            let outside = try Command(["sh", "-c", Load.verify("\(folder)/out.raw", round)]).run()
            #expect(outside.exit == 0, "\(outside)")
        }
    }

    /// Neither errors nor leaks; what it holds is in out.raw.
    private func expectSound(_ path: String, _ format: String, in folder: String) throws {
        if format == "qcow2" { try Command(["qemu-img", "check", "-f", format, path]).succeed() }
        try Command(["qemu-img", "convert", "-f", format, "-O", "raw", path, "\(folder)/out.raw"]).succeed()
    }

    @Test(
        "a journalling file system on a qcow2 image outlives its servers: what fsync promised is there, and fsck finds nothing",
        .disabled(if: DiskServer.isPeer, "QEMU's own server forgets what was in flight"))
    func filesystemOutlivesServers() throws {
        try Scratch.withFolder { folder in
            let path = "\(folder)/disk.qcow2"
            try Command(["qemu-img", "create", "-q", "-f", "qcow2", path, "256M"]).succeed()
            let server = try DiskServer(path, format: "qcow2", socket: "\(folder)/s.sock")
            let machine = try GuestMachine(disks: ["\(server.socket),queues=1"], cpus: 1, folder: folder)
            defer { machine.end() }
            try machine.succeed("mke2fs -q -F -t ext4 /dev/vda && mkdir -p /mnt && mount /dev/vda /mnt")
            try machine.succeed("(\(FileLoad.loop)) >/tmp/files.out 2>&1 &")
            for _ in 0..<FileLoad.kills {
                try machine.wait(until: FileLoad.isMoving, deadline: 120)
                server.kill()
                try server.start()
            }
            try machine.succeed("touch /tmp/stop")
            try machine.wait(until: "test -e /tmp/files.done", whileMoving: "cat /sys/block/vda/stat")
            #expect(try machine.succeed("cat /tmp/files.out") == "")
            let sums = "cd /mnt && sha256sum --quiet -c /tmp/sums"
            #expect(try machine.run("echo 3 >/proc/sys/vm/drop_caches; \(sums)", deadline: 180).status == 0)
            let check = try machine.run("umount /mnt && e2fsck -fn /dev/vda", deadline: 180)
            #expect(check.status == 0, "\(check)")
            #expect(try machine.run("dmesg | grep -E 'I/O error|timeout|EXT4-fs error'").status == 1)
            try machine.shutDown()
            #expect(server.stop()?.exit == 0)
            try expectSound(path, "qcow2", in: folder)
            let outside = try Command(["e2fsck", "-fn", "\(folder)/out.raw"]).run()
            #expect(outside.exit == 0, "\(outside)")
        }
    }
}

/// Files that come and go while servers die; those that stay were synced, and their sums are known.
private enum FileLoad {
    /// More when hunting: QBLK_KILLS.
    static let kills = ProcessInfo.processInfo.environment["QBLK_KILLS"].flatMap { Int($0) } ?? 5
    static let loop = """
        touch /tmp/sums /tmp/n; n=0
        until test -e /tmp/stop; do
            n=$((n + 1)); f=f$((n % 40))
            dd if=/dev/urandom of=/mnt/$f bs=1k count=$((n * 37 % 900 + 1)) conv=fsync status=none || break
            { grep -v " $f\\$" /tmp/sums || true; (cd /mnt && sha256sum $f); } >/tmp/sums.new
            mv /tmp/sums.new /tmp/sums
            test $((n % 7)) -ne 0 || { rm /mnt/$f; sed -i "/ $f\\$/d" /tmp/sums; }
            test $((n % 30)) -ne 0 || fstrim /mnt
            echo $n >/tmp/n
        done 2>&1
        touch /tmp/files.done
        """
    static let isMoving = "n=$(cat /tmp/n); sleep 0.7; test \"$n\" != \"$(cat /tmp/n)\""
}

/// fio's work while servers die.
private enum Load {
    /// A round's pattern is its own: checksums only say that a block is whole, and would take the last round's for right.
    private static func job(_ file: String, _ round: String) -> String {
        "fio --name=load --filename=\(file) --size=16M --rw=randwrite --bssplit=4k/60:64k/30:512/10 --ioengine=libaio"
            + " --iodepth=32 --direct=1 --verify=pattern --verify_pattern=0xa5$(printf %06x \(round))%o --verify_fatal=1"
            + " --randrepeat=1 --allow_file_create=0 --verify_state_save=0"
    }
    /// Rounds of writing everything and reading it all back, each with bytes of its own, until it is told to stop: the
    /// machine may be slow or fast.
    static let rounds = """
        round=0
        until test -e /tmp/stop; do
            echo $((round += 1)) >/tmp/round
            \(job("/dev/vda", "$round")) || { echo 1 >/tmp/fio.status; exit; }
        done
        echo 0 >/tmp/fio.status
        """
    static func verify(_ file: String, _ round: String) -> String {
        "\(job(file, round)) --verify_only"
    }
    /// fio gets answers. Not "requests are in flight": the question takes the only processor from fio, and a fast server
    /// has answered everything by the time that the question is read.
    static let isMoving = """
        before=$(cat /sys/block/vda/stat); sleep 0.3
        test "$before" != "$(cat /sys/block/vda/stat)" && exit
        \(report)
        """
    /// Requests wait for an answer.
    private static let isWaiting = """
        test $(awk '{ print $1 + $2 }' /sys/block/vda/inflight) -gt 0 && exit
        \(report)
        """
    /// What fio has to say.
    private static let report = """
        cat /sys/block/vda/inflight /sys/block/vda/stat /tmp/round /tmp/fio.*; ps -o pid,stat,wchan:20,args -C fio
        dmesg | tail -n 5
        exit 1
        """

    /// Kills the server in the middle of fio's work, and sees that requests wait for the next one.
    static func kill(_ server: DiskServer, in machine: GuestMachine) throws {
        usleep(500_000)
        server.kill()
        try machine.wait(until: isWaiting, deadline: 60)
    }
}
