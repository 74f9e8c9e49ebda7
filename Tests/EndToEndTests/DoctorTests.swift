// `doctor` says what `map` would do on this machine, for this user, and `map` says why it cannot in the same words.

import Foundation
import TestKit
import Testing

@Suite("Doctor", .serialized, .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct DoctorTests {
    private func shell(_ script: String) throws -> Outcome {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("1M")
            var command = Command(["bash", "-c", "chmod 755 .; chmod 644 *; \(script)"], in: folder, deadline: 60)
            command.environment = ["QBLK_RUN_DIR": "\(folder)/run", "Q": Tools.qblk]
            return try command.run()
        }
    }

    @Test("an image that cannot be opened is an error", arguments: ["missing", ".", "/dev/null"])
    func missing(path: String) throws {
        let outcome = try shell("$Q doctor \(path)")
        #expect(outcome.exit == 1 && outcome.errorLines.count == 1 && outcome.output.isEmpty, "\(outcome)")
    }

    @Test("the root of a user namespace is not the machine's")
    func userNamespace() throws {
        let able = try shell("unshare -U -r true")
        guard able.exit == 0 else { return }
        let doctor = try shell("unshare -U -r $Q doctor")
        #expect(doctor.exit == 0, "\(doctor)")
        #expect(doctor.output.contains(#/root +no +this root is one of a user namespace/#), "\(doctor)")
        #expect(doctor.output.contains("\nmap: no way: ") && doctor.output.contains("\nmap -r: no way: "), "\(doctor)")
        let map = try shell("unshare -U -r $Q map -f qcow2 image.qcow2")
        #expect(map.exit == 1 && map.errors.contains("user namespace"), "\(map)")
    }

    @Test("another user is told that root is needed", .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    func user() throws {
        for verb in ["map -f qcow2 image.qcow2", "map -r image.qcow2"] {
            let outcome = try shell(
                "cp $Q q; chmod 755 q; setpriv --reuid 65534 --regid 65534 --clear-groups ./q \(verb)")
            #expect(outcome.exit == 1 && outcome.errors.contains("need root"), "\(outcome)")
            #expect(outcome.errorLines.count == 1 && !outcome.errors.contains(".lock"), "\(outcome)")
        }
    }

    @Test(
        "without FUSE or loop devices there is no way, and a raw image needs loop alone",
        .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    func poorMachine() throws {
        let without = try shell("unshare -m sh -c 'mount -t tmpfs none /dev; $Q doctor; $Q doctor --json'")
        #expect(without.exit == 0, "\(without)")
        #expect(without.output.contains(#/\nmap: no way: .*loop: .*fuse: /#), "\(without)")
        #expect(without.output.contains("\"possible\": false"), "\(without)")
        let noFuse = try shell(
            "truncate -s 1M a.raw; mkdir d; unshare -m sh -c 'mount -t tmpfs none d; cp -a /dev/loop-control /dev/null d; mount --move d /dev; $Q doctor -f raw a.raw; $Q doctor image.qcow2'"
        )
        let lines = noFuse.output.split(separator: "\n").filter { $0.hasPrefix("map: ") }
        #expect(
            lines.count == 2 && lines[0].hasPrefix("map: via loop") && lines[1].hasPrefix("map: no way: fuse"),
            "\(noFuse)")
    }

    @Test(
        "a server that the system does not protect is told of by map and doctor",
        .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    func unprotected() throws {
        let outcome = try shell(
            """
            drop() { setpriv --bounding-set -sys_resource,-ipc_lock --inh-caps -sys_resource,-ipc_lock "$@"; }
            drop $Q doctor | grep memory-lock; drop $Q map -f qcow2 image.qcow2 >device; echo "exit $?"; $Q unmap image.qcow2
            """)
        #expect(outcome.output.contains(#/memory-lock +no +without CAP_SYS_RESOURCE, CAP_IPC_LOCK/#), "\(outcome)")
        #expect(outcome.output.contains("exit 0"), "\(outcome)")
        #expect(outcome.errorLines.count == 1 && outcome.errors.contains("PR_SET_IO_FLUSHER"), "\(outcome)")
    }
}
