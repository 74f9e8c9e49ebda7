// Why this file exists: device-mapper is there for its speed; this measures it against what a user would take instead.
// It runs only when asked for (QBLK_MEASURE=1), and judges nothing: a shared machine is no place for thresholds.

import DeviceMapperMap
import Foundation
import MapRegistry
import Testing

extension Kernel {
    @Suite(.enabled(if: ProcessInfo.processInfo.environment["QBLK_MEASURE"] != nil, "measured only when asked for"))
    struct Speed {
        /// 4 KiB random reads: a raw file on a loop device, the qcow2 by device-mapper, the qcow2 by qemu-nbd.
        @Test(.timeLimit(.minutes(5))) func randomReads() throws {
            let images = try KernelFixture("speed")
            try must(
                """
                cd \(images.folder)
                head -c 128M /dev/urandom >d.raw
                qemu-img create -q -f qcow2 d.qcow2 128M
                """)
            // Clusters in a random order: as many targets as the disk has clusters.
            let commands = (0..<UInt64(2048)).sorted { scatter($0) < scatter($1) }
                .map { "write -q -P \($0 % 255 + 1) \($0 * 65536) 65536" }
            try Data((commands.joined(separator: "\n") + "\n").utf8).write(
                to: URL(fileURLWithPath: images.path("commands")))
            try must("cd \(images.folder); qemu-io -t unsafe -f qcow2 d.qcow2 <commands >/dev/null; sync")
            let record = try images.map("d.qcow2")
            print("targets:", try must("dmsetup table \(record.name) | wc -l"))
            let report = try must(
                """
                cd \(images.folder)
                loop=$(losetup --read-only --direct-io=on --show --find d.raw)
                qemu-nbd --cache=none --aio=native -r -c /dev/nbd0 d.qcow2 || true
                for depth in 1 16; do
                  for round in 1 2 3 4 5; do
                    for device in $loop \(record.device) /dev/nbd0; do
                      [ "$(blockdev --getsize64 $device)" -gt 0 ] || continue
                      iops=$(fio --name=r --filename=$device --readonly --rw=randread --bs=4k --direct=1 \\
                        --ioengine=io_uring --iodepth=$depth --runtime=2 --time_based --output-format=terse \\
                        | grep '^3;' | cut -d';' -f8)
                      echo "depth $depth $device $iops"
                    done
                  done
                done | sort -k2n -k3 | awk '{ k = $1 " " $2 " " $3; if ($4 > best[k]) best[k] = $4; all[k] = all[k] " " $4 }
                  END { for (k in best) print k, "best", best[k], "all", all[k] }' | sort
                qemu-nbd -d /dev/nbd0 >/dev/null || true
                losetup -d $loop
                """)
            print(report)
            try DMMap.unmap(record)
        }

        private func scatter(_ number: UInt64) -> UInt64 { (number &+ 1) &* 0x9e37_79b9_7f4a_7c15 }
    }
}
