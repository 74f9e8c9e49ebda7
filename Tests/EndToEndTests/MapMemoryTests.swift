// A server of a block device that has to wait for memory may wait for itself: memory becomes free when dirty pages are
// written back, through the device that it serves. In a small control group that is the rule, not the exception.

import Foundation
import TestKit
import Testing

extension MapTests.Writing {
    static let noCgroup =
        MemoryCgroup.missing ?? (Tools.have("setpriv") ? nil : "needs setpriv")

    /// Without CAP_SYS_RESOURCE the server cannot declare itself an I/O flusher (PR_SET_IO_FLUSHER).
    @Test(
        "a writer in its server's own small control group is not stuck",
        .enabled(if: noCgroup == nil, "\(noCgroup ?? "")"), .timeLimit(.minutes(3)), arguments: [true, false])
    func smallGroup(privileged: Bool) throws {
        try Scratch.withFolder("cgroup") { folder in
            let group = try MemoryCgroup(megabytes: 64)
            let builder = ImageBuilder(folder: folder)
            try builder.create("512M", "")
            let name = Mapping.freshName()
            let script = """
                echo $$ >"$1" && exec \(privileged ? "" : "setpriv --bounding-set -sys_resource --inh-caps -sys_resource") \
                "$2" map -f qcow2 --via loop --name \(name) image.qcow2
                """
            let made = try Command(["sh", "-c", script, "sh", group.processes, Tools.qblk], in: folder, deadline: 60)
                .run()
            try #require(made.exit == 0, "\(made)")
            if !privileged { #expect(made.errors.contains("PR_SET_IO_FLUSHER"), "\(made)") }
            let device = made.output.trimmingCharacters(in: .whitespacesAndNewlines)
            let mapping = Mapping(made: name, device: device)
            let write = "echo $$ >\"$1\" && exec dd if=/dev/zero of=\"$2\" bs=1M count=400 conv=fsync status=none"
            var writer = try Command(["sh", "-c", write, "sh", group.processes, device]).spawn()
            let outcome = writer.wait(deadline: 100)
            if outcome.exit != 0 { try mapping.killEverything() }
            #expect(outcome.exit == 0, "\(outcome)")
            #expect(try mapping.unmap().exit == 0)
            let check = try qemuImg("check", "image.qcow2", in: folder)
            #expect(check.exit == 0, "\(check)")
        }
    }
}
