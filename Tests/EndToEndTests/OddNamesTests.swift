// A file may have any name but one with a slash or a NUL in it. Names that are not UTF-8, and names that Unicode takes for
// equal, lead to their own file and never to another one: a canary lies where a repaired name would lead.

import Foundation
import TestKit
import Testing

@Suite("Odd names lead to their own file", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct OddNamesTests {
    /// What a shell needs to make and to spell odd names: `$odd` is not UTF-8, `$canary` is what it would be repaired to.
    private static let names = """
        set -e
        odd=$(printf 'bad\\377.qcow2'); canary=$(printf 'bad\\357\\277\\275.qcow2')
        composed=$(printf '\\303\\251.qcow2'); decomposed=$(printf 'e\\314\\201.qcow2')
        make() { qemu-img create -q -f qcow2 "$1" 1M; qemu-io -f qcow2 -c "write -q -P $2 0 64k" "$1"; }

        """

    private func sh(_ script: String, in folder: String) throws -> Outcome {
        var command = Command(["sh", "-c", Self.names + script], in: folder)
        command.environment = ["Q": Tools.qblk]
        return try command.run()
    }

    private func expect(_ script: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        try Scratch.withFolder { folder in
            let outcome = try sh("make ok.qcow2 7\nprintf precious >\"$canary\"\n" + script, in: folder)
            #expect(outcome.exit == 0, "\(outcome)", sourceLocation: sourceLocation)
            let kept = try sh("[ \"$(cat \"$canary\")\" = precious ]", in: folder)
            #expect(kept.exit == 0, "the canary is as it was", sourceLocation: sourceLocation)
        }
    }

    @Test func convertWritesTheFileThatWasNamed() throws {
        try expect(#"$Q convert -f qcow2 -O raw ok.qcow2 "$odd"; test "$(head -c 1 "$odd" | od -An -tu1)" -eq 7"#)
    }

    @Test func createResizeCheckInfoAndCompareTakeIt() throws {
        try expect(
            #"""
            $Q create -f qcow2 "$odd" 1M >out; $Q resize "$odd" 2M; $Q check "$odd" >>out; $Q info "$odd" >>out
            qemu-img compare -q -f qcow2 "$odd" -F raw /dev/null || test $? -le 2
            test "$($Q info --json "$odd" | grep -c '"virtual-size": 2097152')" = 1
            cp "$odd" twin; $Q compare -f qcow2 -F qcow2 "$odd" twin >>out
            grep -q 'image: bad.xff.qcow2' out
            """#)
    }

    @Test func optionsWithPathsTakeIt() throws {
        try expect(
            #"""
            make "$odd" 9
            $Q create -f qcow2 -b "$odd" -F qcow2 one >out; $Q create -f qcow2 -o "backing_file=$odd,backing_fmt=qcow2" two >>out
            $Q create -f qcow2 -o "data_file=$odd.data" three 1M >>out; test -e "$odd.data"
            for i in one two; do qemu-img compare -q -f qcow2 -F qcow2 $i "$odd"; $Q compare -f qcow2 -F qcow2 $i "$odd" >>out; done
            mkdir "$odd.folder" images; cp "$odd" "$odd.folder/base"; cd images
            $Q create -u -f qcow2 -b "../$odd.folder/base" -F qcow2 four 1M >>../out
            ! $Q compare -f qcow2 -F qcow2 four "../$odd" 2>refusal; grep -q 'outside the image.s folder' refusal
            $Q compare -f qcow2 -F qcow2 --allow-path "../$odd.folder" four "../$odd" >>../out
            """#)
    }

    @Test func theWorkingFolderMayHaveIt() throws {
        try expect(
            #"""
            mkdir "$odd.d" "$canary.d"; cd "$odd.d"; make base.qcow2 5; $Q create -f qcow2 -b base.qcow2 -F qcow2 top >../out
            $Q convert -f qcow2 -O raw top top.raw; test "$(head -c 1 top.raw | od -An -tu1)" -eq 5; test -z "$(ls ../"$canary.d")"
            """#)
    }

    @Test func namesInHeadersAreBytes() throws {
        try expect(
            #"""
            make "$odd" 3; qemu-img create -q -f qcow2 -b "$odd" -F qcow2 top
            $Q convert -f qcow2 -O raw top top.raw; test "$(head -c 1 top.raw | od -An -tu1)" -eq 3
            test "$($Q info --backing-chain --json top | grep -c virtual-size)" = 4
            rm "$odd"; ! $Q convert -f qcow2 -O raw top gone.raw 2>refusal; grep -q 'bad.xff.qcow2. is not there' refusal
            """#)
    }

    @Test func namesThatUnicodeTakesForEqualAreTwoFiles() throws {
        try expect(
            #"""
            make "$composed" 1; make "$decomposed" 2
            $Q convert -f qcow2 -O raw "$composed" a; $Q convert -f qcow2 -O raw "$decomposed" b
            test "$(head -c 1 a | od -An -tu1)" -eq 1; test "$(head -c 1 b | od -An -tu1)" -eq 2
            qemu-img create -q -f qcow2 -b "$decomposed" -F qcow2 top; $Q convert -f qcow2 -O raw top c; cmp b c
            """#)
    }

    @Test func aSlashBehindAFileIsAnError() throws {
        try expect(
            #"""
            ! $Q info ok.qcow2/ 2>refusal; grep -q 'Not a directory' refusal
            ! $Q create -f raw ok.qcow2/ 1M >out 2>&1; qemu-img check -q -f qcow2 ok.qcow2
            """#)
    }

    @Test func messagesShowTheBytes() throws {
        try expect(
            #"! $Q info "$odd" 2>said; grep -q 'bad.xff.qcow2: cannot open' said; ! $Q "$odd" 2>said; grep -q 'bad.xff' said"#
        )
    }
}

@Suite("Maps of odd names", .enabled(if: Tools.canLoop && Tools.haveQblk, "\(Tools.loopReason)"))
struct OddMapTests {
    @Test func aMapIsFoundByItsImageAndNoOther() throws {
        try Scratch.withFolder { folder in
            let script = #"""
                set -e; odd=$(printf 'bad\377.qcow2'); canary=$(printf 'bad\357\277\275.qcow2'); mkdir run; export QBLK_RUN_DIR=$PWD/run
                $Q create -f qcow2 "$odd" 1M >out; $Q create -f qcow2 "$canary" 1M >>out
                trap '$Q unmap --all' EXIT
                device=$($Q map -f qcow2 "$odd"); printf odd | dd of=$device bs=3 conv=fsync 2>>out
                ls run | grep -q '^bad_.qcow2$'; $Q list >>out; grep -q 'bad.xff.qcow2' out
                $Q list --json | grep -q '"bytes": "[0-9a-f]*ff2e71636f7732"'
                ! $Q unmap "$canary" 2>>out; $Q unmap "$odd"; test -z "$($Q list)"
                $Q convert -f qcow2 -O raw "$odd" raw; test "$(head -c 3 raw)" = odd
                """#
            var command = Command(["sh", "-c", script], in: folder)
            command.environment = ["Q": Tools.qblk]
            let outcome = try command.run()
            #expect(outcome.exit == 0, "\(outcome)")
        }
    }
}
