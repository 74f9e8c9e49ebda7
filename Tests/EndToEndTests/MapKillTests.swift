// A mounted journalling file system is the strictest witness: it believes every answer and every flush. Whatever
// kills the server under it, fsck must find nothing, and every file that was synced must be there.

import Foundation
import TestKit
import Testing

extension MapTests.Writing {
    /// More when hunting: QBLK_KILLS.
    static let kills = ProcessInfo.processInfo.environment["QBLK_KILLS"].flatMap { Int($0) } ?? 5

    @Test(
        "a journalling file system outlives its servers",
        .disabled(if: ProcessInfo.processInfo.environment["QBLK_GUEST"] == "uml", "needs a kernel with fast GUP"),
        .enabled(if: tools.isEmpty, "needs \(tools)"), arguments: ["cluster_size=64k", "extended_l2=on"])
    func outlivesServers(options: String) throws {
        try Scratch.withFolder("kill") { folder in
            let builder = ImageBuilder(folder: folder)
            try builder.create("192M", options)
            let mapping = try Mapping(
                builder.path("image.qcow2"), readOnly: false, options: ["-f", "qcow2"], in: folder)
            try builder.run("mke2fs", "-q", "-t", "ext4", mapping.device)
            try builder.run("mkdir", "mnt")
            try builder.run("mount", "-t", "ext4", mapping.device, "mnt")
            defer { _ = try? Command(["umount", "-l", builder.path("mnt")]).run() }
            var load = try Command(["sh", "-c", Self.load], in: folder).spawn()
            var killed: Set<pid_t> = []
            for _ in 0..<Self.kills {
                usleep(300_000)
                let server = try #require(try mapping.nextServerPID(after: killed))
                kill(server, SIGKILL)
                killed.insert(server)
            }
            _ = try mapping.nextServerPID(after: killed)
            try builder.run("touch", "stop")
            let outcome = load.wait(deadline: 120)
            #expect(outcome.exit == 0 && outcome.errors.isEmpty, "\(outcome)")
            try builder.run("sh", "-c", "echo 3 >/proc/sys/vm/drop_caches; cd mnt && sha256sum --quiet -c ../sums")
            try builder.run("umount", "mnt")
            try builder.run("e2fsck", "-fn", mapping.device)
            #expect(try mapping.unmap().exit == 0)
            let check = try qemuImg("check", "image.qcow2", in: folder)
            #expect(check.exit == 0, "\(check)")
            try builder.img("convert", "-f", "qcow2", "-O", "raw", "image.qcow2", "after.raw")
            try builder.run("e2fsck", "-fn", "after.raw")
        }
    }

    /// Files that come and go; the sums of those that stay, each synced before its sum is noted.
    private static let load = """
        set -e; touch sums; n=0
        until test -e stop; do
            n=$((n + 1)); f=f$((n % 40))
            dd if=/dev/urandom of=mnt/$f bs=1k count=$((n * 37 % 900 + 1)) conv=fsync status=none
            { grep -v " $f\\$" sums || true; (cd mnt && sha256sum $f); } >sums.new; mv sums.new sums
            test $((n % 7)) -ne 0 || { rm mnt/$f; grep -v " $f\\$" sums >sums.new || true; mv sums.new sums; }
            test $((n % 30)) -ne 0 || fstrim mnt
        done
        """
}
