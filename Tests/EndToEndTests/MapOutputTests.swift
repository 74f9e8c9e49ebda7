// What `map` and `unmap` say, and what becomes of a map that could not be told to anybody.

import Foundation
import TestKit
import Testing

@Suite(
    "What map and unmap say", .serialized, .enabled(if: Tools.canCompare, "\(Tools.compareReason)"),
    .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
struct MapOutputTests {
    /// A shell in a folder with an image, with a registry of its own. What `map` notes about a container's missing
    /// capabilities is left out.
    private func shell(_ script: String) throws -> Outcome {
        try Scratch.withFolder { folder in
            try ImageBuilder(folder: folder).create("1M")
            var command = Command(["bash", "-c", script], in: folder, deadline: 60)
            command.environment = ["QBLK_RUN_DIR": "\(folder)/run", "Q": Tools.qblk]
            var outcome = try command.run()
            outcome.errors = outcome.errorLines.filter { !$0.contains("not wholly protected") }.map { $0 + "\n" }
                .joined()
            return outcome
        }
    }

    @Test(
        "a map whose device cannot be told is taken down again",
        arguments: ["-f qcow2", "-r", "-f qcow2 --foreground", "-r --foreground", "-f raw", "-f raw --foreground"],
        [">/dev/full", ">&-", "> >(true)"])
    func fullOutput(options: String, output: String) throws {
        // A pipe whose reader has gone: not before that is it closed.
        let wait = output.contains("true") ? "sleep 0.3;" : ""
        let outcome = try shell(
            """
            cp image.qcow2 canary; { \(wait) $Q map \(options) image.qcow2; } \(output); echo "exit $?"
            for i in $(seq 50); do test -n "$($Q list)" || break; sleep 0.1; done
            $Q list; ls run; cmp -n $(stat -c %s canary) image.qcow2 canary; ! grep "$PWD" /proc/self/mountinfo; ! losetup -a | grep "$PWD"
            """)
        #expect(outcome.output == "exit 1\n", "\(outcome)")
        #expect(outcome.errorLines.count == 1 && outcome.errors.contains("standard output"), "\(outcome)")
    }

    @Test("a long write-back says what is waited for")
    func waiting() throws {
        let outcome = try shell(
            """
            device=$($Q map -f qcow2 image.qcow2); server=$($Q list --json | grep -o '"server-pid": [0-9]*' | grep -o '[0-9]*')
            kill -STOP $server; (sleep 2.5; kill -CONT $server) & $Q unmap image.qcow2; echo "exit $?"; echo "$device $server"
            """)
        let lines = outcome.output.split(separator: "\n")
        #expect(lines.first == "exit 0", "\(outcome)")
        let words = lines.last?.split(separator: " ") ?? []
        #expect(
            outcome.errors
                == "qblk note: image.qcow2: waiting for \(words.first ?? "")'s server, stopped by a signal: "
                + "continue with kill -CONT \(words.last ?? "")\n",
            "\(outcome)")
    }

    @Test("list says that an image has another name by now")
    func renamed() throws {
        let outcome = try shell(
            """
            $Q map -r --via loop --name m image.qcow2 >/dev/null; mv image.qcow2 other.qcow2; cp other.qcow2 image.qcow2
            $Q list | grep -c 'image.qcow2 (renamed)$'; $Q list --json | grep -c '"image-renamed": true'
            $Q unmap image.qcow2 2>&1 | grep -c "is not mapped"; $Q unmap other.qcow2; echo "exit $?"
            """)
        #expect(outcome.output == "1\n1\n1\nexit 0\n", "\(outcome)")
    }

    @Test("a deleted image is shown as deleted, not as renamed", arguments: ["qcow2", "raw"])
    func deleted(format: String) throws {
        let outcome = try shell(
            """
            qemu-img convert -O \(format) image.qcow2 gone
            $Q map -r --via loop -f \(format) --name m gone >/dev/null; mv gone other; $Q list | grep -c 'gone .renamed.$'
            rm other; $Q list | grep -c 'gone .deleted.$'; $Q list --json | grep -c '"image-deleted": true'
            $Q list --json | grep -c renamed; $Q unmap m; echo "exit $?"
            """)
        #expect(outcome.output == "1\n1\n1\n0\nexit 0\n", "\(outcome)")
    }

    @Test("files of one name get two maps, and the second says what it is called")
    func names() throws {
        let outcome = try shell(
            """
            mkdir a b; for d in a b; do cp image.qcow2 $d/disk.qcow2; $Q map -r --via loop $d/disk.qcow2; done >/dev/null
            $Q unmap disk.qcow2-2 && $Q unmap a/disk.qcow2; echo "exit $?"
            """)
        #expect(outcome.output == "exit 0\n", "\(outcome)")
        #expect(outcome.errorLines.count == 1 && outcome.errors.contains("this one is 'disk.qcow2-2'"), "\(outcome)")
    }

    @Test("unmap --all has a line for each map that lost something, and exit code 1")
    func lost() throws {
        let outcome = try shell(
            """
            for n in one two three; do
                cp image.qcow2 $n; device=$($Q map -f qcow2 --name $n $n); test $n = three && continue
                dd if=/dev/urandom of=$device bs=64k count=1 oflag=direct status=none
            done
            kill -9 $($Q list --json | grep -oE '"(server|supervisor)-pid": [0-9]+' | grep -o '[0-9]*$'); sleep 1
            $Q list | grep -c degraded; $Q unmap --all; echo "exit $?"; $Q list
            """)
        #expect(outcome.output == "3\nexit 1\n", "\(outcome)")
        #expect(outcome.errorLines.count == 2, "\(outcome)")
        #expect(outcome.errorLines.allSatisfy { $0.contains("may be lost") }, "\(outcome)")
    }
}
