// Disks fail. Then a sync must not succeed, now or later, unmap must say so, and the image must be whole as of the
// last sync that did succeed. The disk is device-mapper's, so this runs in the kernel guest.

import Foundation
import TestKit
import Testing

@Suite("A disk that fails under a map", .disabled(if: SmallGuest.missing != nil, "\(SmallGuest.missing ?? "")"))
struct MapFailureTests {
    /// A qcow2 image with 4 MiB in it on a device that `breaks` and `mends`, mapped.
    private static let setUp = """
        truncate -s 80M disk; loop=$(losetup -f --show disk); dmsetup create x --table "0 163840 linear $loop 0"
        becomes() { dmsetup suspend x; dmsetup load x --table "0 163840 $1"; dmsetup resume x; }
        breaks() { becomes error; }; mends() { becomes "linear $loop 0"; }
        qemu-img create -q -f qcow2 /dev/mapper/x 64M; head -c 4M /dev/urandom >noise
        says() { name=$1; shift; "$@" >out 2>&1; echo "$name: $? $(tr '\\n' ' ' <out)"; }
        device=$(qblk map -f qcow2 --name m /dev/mapper/x)
        dd if=noise of=$device bs=1M oflag=direct conv=fsync status=none || exit 1
        """

    private func lines(_ script: String) throws -> [String: String] {
        let outcome = try SmallGuest.run(Self.setUp + "\n" + script)
        try #require(outcome.exit == 0, "\(outcome)")
        let pairs = outcome.output.split(separator: "\n").compactMap { line -> (String, String)? in
            guard let colon = line.firstIndex(of: ":") else { return nil }
            return (String(line[..<colon]), String(line[colon...].dropFirst(2)))
        }
        return Dictionary(pairs, uniquingKeysWith: { $1 })
    }

    @Test("after a sync that failed, none succeeds, unmap refuses, and the image is whole as of the sync before")
    func sync() throws {
        let said = try lines(
            """
            dd if=noise of=$device bs=64k count=8 seek=400 oflag=direct status=none
            breaks
            says sync sync $device
            mends
            says later sync $device
            says unmap qblk unmap m
            says deferred qblk unmap --deferred m
            says check qemu-img check -f qcow2 /dev/mapper/x
            qemu-img convert -f qcow2 -O raw /dev/mapper/x content; says content cmp -n 4194304 noise content
            says list qblk list --json
            """)
        #expect(said["sync"]?.hasPrefix("1 ") == true, "\(said)")
        #expect(said["later"]?.hasPrefix("1 ") == true, "\(said)")
        #expect(said["unmap"]?.hasPrefix("1 qblk: m: ") == true, "\(said)")
        #expect(said["unmap"]?.contains("--deferred") == true, "\(said)")
        #expect(said["deferred"]?.contains("not everything could be written back") == true, "\(said)")
        // Free clusters that the workers kept cannot be given back any more: leaks, and nothing else.
        #expect(said["check"]?.hasPrefix("0 ") == true || said["check"]?.hasPrefix("3 Leaked") == true, "\(said)")
        #expect(said["check"]?.contains("ERROR") == false, "\(said)")
        #expect(said["content"]?.hasPrefix("0 ") == true, "\(said)")
        #expect(said["list"] == "0 [] ", "\(said)")
    }

    @Test("a write that failed is that write's error, and the next one may succeed")
    func write() throws {
        let said = try lines(
            """
            breaks
            says write dd if=noise of=$device bs=64k count=1 oflag=direct status=none
            mends
            says again dd if=noise of=$device bs=64k count=1 oflag=direct conv=fsync status=none
            says unmap qblk unmap m
            says check qemu-img check -f qcow2 /dev/mapper/x
            """)
        #expect(said["write"]?.hasPrefix("1 ") == true, "\(said)")
        #expect(said["again"]?.hasPrefix("0 ") == true, "\(said)")
        #expect(said["unmap"]?.hasPrefix("0 ") == true, "\(said)")
        #expect(said["check"]?.hasPrefix("0 ") == true, "\(said)")
    }
}
