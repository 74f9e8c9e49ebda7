// What counts in the end: the kernel's device holds the bytes that QEMU reads, and taking it down leaves nothing.

import DeviceMapperMap
import DiskTypes
import Foundation
import ImageChain
import MapRegistry
import Testing
import SystemPackage

extension Kernel {
    @Suite struct Map {
        @Test func machineCanMap() {
            let doctor = DMCapabilities()
            #expect(doctor.canMap, "\(doctor.reason ?? "") \(doctor.advice ?? "")")
            #expect(!doctor.library.isEmpty)
            print("device-mapper", doctor.capability ?? "none", "library", doctor.library)
        }

        @Test func chainOfMixedClusters() throws {
            let images = try KernelFixture("chain")
            try images.makeChain()
            let record = try images.map("top.qcow2")
            #expect(record.device == "/dev/mapper/top.qcow2")
            #expect(record.size == 32 << 20)
            #expect(record.loops.count == 3)
            try images.expectSameBytes(record, "top.qcow2")
            try expectTable(record, images.path("top.qcow2"))
            #expect(try must("blockdev --getro \(record.device)") == "1\n")
            #expect(try MapRegistry().record(of: record.name) == record)
            #expect(record.health == .alive)
            // Direct I/O was granted, and the loops go by themselves.
            #expect(try must("losetup -nl -O DIO,RO,AUTOCLEAR | sort -u | tr -s ' '").contains("1 1 1"))
            try DMMap.unmap(record)
            try images.expectNothingLeft(record)
        }

        /// What dmsetup reads back is what `qblk table` prints, with the same devices.
        private func expectTable(_ record: MapRecord, _ path: String) throws {
            let chain = try ImageChain.open(path: FilePath(path), options: unlocked())
            let table = try DMTable(of: chain)
            var names = try table.names(for: chain, devices: record.loops.map { "7:\($0)" })
            names.zeros = try must("dmsetup info -c --noheadings -o major,minor \(record.dmNames[1])")
                .trimmingCharacters(in: .whitespacesAndNewlines)
            #expect(try must("dmsetup table \(record.name)") == table.text(names: names))
            let read = try DeviceMapper.shared.table(name: record.name)
            #expect(read.map(\.text) == (0..<table.lines.count).map { table.target($0, names: names).text })
        }

        private func unlocked() -> OpenOptions {
            var options = OpenOptions()
            options.lock = false
            return options
        }

        @Test func whatATruncatedImageLostIsAnErrorNotZeros() throws {
            let images = try KernelFixture("short")
            try must(
                """
                cd \(images.folder)
                qemu-img create -q -f qcow2 d.qcow2 1M
                qemu-io -f qcow2 -c 'write -P 5 0 64k' -c 'write -P 6 64k 4k' d.qcow2 >/dev/null
                size=$(stat -c %s d.qcow2); truncate -s $((size - 32768)) d.qcow2
                """)
            let record = try images.map("d.qcow2")
            // 96 KiB are there; the rest of the second cluster is lost, and lost is not zero.
            try must(
                """
                cd \(images.folder); qemu-img convert -O raw d.qcow2 d.raw
                cmp -n 98304 \(record.device) d.raw
                ! dd if=\(record.device) of=/dev/null bs=4k skip=24 count=1 iflag=direct 2>/dev/null
                cmp -i 131072 \(record.device) d.raw
                """)
            try DMMap.unmap(record)
            try images.expectNothingLeft(record)
        }

        @Test func extendedL2AndSnapshot() throws {
            let images = try KernelFixture("extended")
            try must(
                """
                cd \(images.folder)
                qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k d.qcow2 16M
                qemu-io -f qcow2 -c 'write -P 5 4k 4k' -c 'write -P 6 1M 12k' -c 'write -z 1032k 4k' d.qcow2 >/dev/null
                qemu-img snapshot -c one d.qcow2
                qemu-img convert -O raw -l snapshot.name=one d.qcow2 one.raw
                qemu-io -f qcow2 -c 'write -P 9 0 2M' d.qcow2 >/dev/null
                """)
            let now = try images.map("d.qcow2")
            try images.expectSameBytes(now, "d.qcow2")
            var options = DMMapOptions(image: FilePath(images.path("d.qcow2")))
            options.name = "before"
            options.open.snapshot = "one"
            let before = try DMMap.map(options)
            try must("cmp \(before.device) \(images.path("one.raw"))")
            try DMMap.unmap(before)
            try DMMap.unmap(now)
            try images.expectNothingLeft(now)
        }

        @Test func externalDataFile() throws {
            let images = try KernelFixture("external")
            try must(
                """
                cd \(images.folder)
                qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 16M
                qemu-io -f qcow2 -c 'write -P 5 64k 64k' -c 'write -P 6 1M 3M' -c 'write -z 2M 64k' d.qcow2 >/dev/null
                """)
            let record = try images.map("d.qcow2")
            #expect(try must("losetup -nl -O BACK-FILE") == images.path("d.raw") + "\n")
            try images.expectSameBytes(record, "d.qcow2")
            try DMMap.unmap(record)
            try images.expectNothingLeft(record)
        }

        /// A mapping entry that points between clusters: an I/O error there, the right bytes everywhere else.
        @Test func damagedEntry() throws {
            let images = try KernelFixture("damaged")
            try must(
                """
                cd \(images.folder)
                qemu-img create -q -f qcow2 d.qcow2 8M
                qemu-io -f qcow2 -c 'write -P 5 0 64k' -c 'write -P 6 64k 64k' -c 'write -P 7 128k 64k' d.qcow2 >/dev/null
                qemu-img convert -O raw d.qcow2 before
                l1=$((16#$(xxd -p -s 40 -l 8 d.qcow2)))
                l2=$((16#$(xxd -p -s $l1 -l 8 d.qcow2) & 0xfffffffffffe00))
                printf '\\x02\\x00' | dd of=d.qcow2 bs=1 seek=$((l2 + 8 + 6)) conv=notrunc status=none
                """)
            let record = try images.map("d.qcow2")
            try must(
                """
                cd \(images.folder); dev=\(record.device)
                cmp -n 65536 $dev before
                cmp -i 131072 $dev before
                ! dd if=$dev bs=64k skip=1 count=1 of=/dev/null
                dmsetup table d.qcow2 | grep -qx '128 128 error '
                """)
            try DMMap.unmap(record)
            try images.expectNothingLeft(record)
        }

        /// As many lines as a badly fragmented disk has: it loads, it reads right, and it is gone at once.
        @Test(.timeLimit(.minutes(3))) func manyTargets() throws {
            let images = try KernelFixture("many")
            let count = 6_000
            try must(
                """
                cd \(images.folder); head -c \(count * 512) /dev/urandom >r
                qemu-img create -q -f qcow2 -o cluster_size=512 d.qcow2 \(count * 512)
                """)
            // Every other sector first, then the rest: no two neighbours lie together.
            let order = stride(from: 0, to: count, by: 2).map { $0 } + stride(from: 1, to: count, by: 2).map { $0 }
            let commands = order.map { "write -q -s r.\($0 % 2) \($0 * 512) 512" }
            try Data((commands.joined(separator: "\n") + "\n").utf8).write(
                to: URL(fileURLWithPath: images.path("commands")))
            try must(
                """
                cd \(images.folder); head -c 512 r >r.0; tail -c 512 r >r.1
                qemu-io -t unsafe -f qcow2 d.qcow2 <commands >/dev/null
                """)
            let clock = ContinuousClock()
            let before = clock.now
            let record = try images.map("d.qcow2")
            print("\(count) clusters mapped in", clock.now - before)
            let device = try #require(try DeviceMapper.shared.info(name: record.name))
            #expect(device.targets > count * 9 / 10)
            try images.expectSameBytes(record, "d.qcow2")
            let end = clock.now
            try DMMap.unmap(record)
            print("unmapped in", clock.now - end)
            try images.expectNothingLeft(record)
        }

        @Test func refusals() throws {
            let images = try KernelFixture("refusals")
            try must(
                """
                cd \(images.folder)
                head -c 1000 /dev/urandom >odd.raw
                (yes | head -c 1M) >r || true; qemu-img convert -c -O qcow2 r c.qcow2
                """)
            let odd = #expect(throws: ImageError.self) { try images.map("odd.raw") }
            #expect(odd?.description.contains("inside a sector") == true)
            let compressed = #expect(throws: ImageError.self) { try images.map("c.qcow2") }
            #expect(compressed?.description.contains("compressed clusters (guest offset 0x0)") == true)
            try must("[ ! -e /run/qblk/c.qcow2 ] && [ -z \"$(losetup -a)\" ]")
            let chain = try ImageChain.open(path: FilePath(images.path("c.qcow2")))
            #expect(try DMMap.obstacle(chain) == DMUnsupported(.compressed, at: GuestOffset(0)))
        }

        @Test func tableByHand() throws {
            let images = try KernelFixture("hand")
            try images.makeChain()
            let chain = try ImageChain.open(path: FilePath(images.path("top.qcow2")))
            let table = try DMTable(of: chain)
            try Data(table.text(names: try table.names(for: chain)).utf8).write(
                to: URL(fileURLWithPath: images.path("table")))
            // As formats/dm-table/README.md tells users to.
            try must(
                """
                cd \(images.folder)
                for f in top.qcow2 mid.qcow2 base.raw; do
                  loop=$(losetup --read-only --direct-io=on --show --find $f)
                  sed -i "s|$PWD/$f|$loop|" table
                done
                dmsetup create --readonly hand --noudevsync <table
                dmsetup mknodes
                qemu-img convert -U -O raw top.qcow2 expected
                cmp /dev/mapper/hand expected
                dmsetup remove hand; dmsetup mknodes; losetup -D
                """)
        }
    }
}
