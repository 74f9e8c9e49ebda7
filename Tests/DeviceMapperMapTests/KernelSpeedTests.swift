// Device-mapper is there for its speed; this measures it against what a user would take instead. It runs only when
// asked for (QBLK_MEASURE=1), and judges nothing: a shared machine is no place for thresholds.

import DeviceMapperMap
import DiskTypes
import Foundation
import MapRegistry
import Testing

extension Kernel {
    @Suite(.enabled(if: ProcessInfo.processInfo.environment["QBLK_MEASURE"] != nil, "measured only when asked for"))
    struct Speed {
        /// 4 KiB random reads: a raw file on a loop device, the qcow2 by device-mapper, the qcow2 by qemu-nbd.
        @Test(.timeLimit(.minutes(5))) func randomReads() throws {
            let images = try KernelFixture("speed", on: "/dev/shm")
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
            // Rounds of all three, so that a busy moment of the machine meets all; ratios within a round, their median.
            let report = try must(
                """
                cd \(images.folder)
                loop=$(losetup --read-only --direct-io=on --show --find d.raw)
                qemu-nbd --cache=none -r -c /dev/nbd0 d.qcow2; sleep 1
                iops() {
                  fio --name=r --filename=$1 --readonly --rw=randread --bs=4k --direct=1 --ioengine=io_uring \\
                    --iodepth=$2 --runtime=1 --time_based --output-format=terse | grep '^3;' | cut -d';' -f8
                }
                median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
                for depth in 1 16; do
                  for round in $(seq 11); do
                    l=$(iops $loop $depth); m=$(iops \(record.device) $depth); n=$(iops /dev/nbd0 $depth)
                    echo $depth $l $m $n $((m * 100 / l)) $((m * 100 / n))
                  done >rounds
                  echo "depth $depth: loop $(cut -d' ' -f2 rounds | median), dm $(cut -d' ' -f3 rounds | median)," \\
                    "qemu-nbd $(cut -d' ' -f4 rounds | median) IOPS;" \\
                    "dm/loop $(cut -d' ' -f5 rounds | median) %, dm/qemu-nbd $(cut -d' ' -f6 rounds | median) %"
                done
                qemu-nbd -d /dev/nbd0 >/dev/null
                losetup -d $loop
                """)
            print(report)
            try DMMap.unmap(record)
        }

        /// Just below and just above what libdevmapper hands to the kernel; our reckoning must agree with it.
        @Test(.timeLimit(.minutes(5))) func largestTable() throws {
            let images = try KernelFixture("largest")
            let loop = try must(
                "cd \(images.folder); truncate -s 1G f; losetup --read-only --show --find f; sync"
            ).trimmingCharacters(in: .whitespacesAndNewlines)
            let number = try must("cat /sys/block/$(basename \(loop))/dev").trimmingCharacters(in: .newlines)
            for count in [780_000, 860_000] {
                var builder = try DMTableBuilder(size: UInt64(count) * 512, fileLengths: [1 << 30])
                for i in 0..<UInt64(count) {
                    try builder.add(
                        Extent(
                            guest: GuestOffset(i * 512), length: 512, kind: .data,
                            host: HostOffset(((1 << 21) - 1 - i) * 512)))
                }
                let table = try builder.finish()
                let names = DMDeviceNames(files: [0: number])
                let obstacle = table.obstacle(names: names)
                let spec = DMDeviceSpec(name: "largest", uuid: "QBLK-largest", readOnly: true)
                let clock = ContinuousClock()
                var before = clock.now
                let bytes = table.lines.indices.reduce(0) {
                    $0 + table.target($1, names: names).parameters.utf8.count
                }
                print(bytes, "bytes of parameters written in", clock.now - before)
                before = clock.now
                do throws(ImageError) {
                    _ = try DeviceMapper.shared.create(spec, count: count) { table.target($0, names: names) }
                    print(count, "targets made in", clock.now - before)
                    #expect(obstacle == nil)
                    try DeviceMapper.shared.remove(name: "largest")
                } catch {
                    print(count, "targets:", error)
                    #expect(obstacle != nil)
                }
            }
            try must("losetup -d \(loop)")
        }

        private func scatter(_ number: UInt64) -> UInt64 { (number &+ 1) &* 0x9e37_79b9_7f4a_7c15 }
    }
}
