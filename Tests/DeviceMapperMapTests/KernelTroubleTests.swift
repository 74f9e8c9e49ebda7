// Devices in use, names taken, crashes between any two steps, tables that the kernel refuses: none may hang a reader,
// remove what is not ours, or leave anything behind.

import DeviceMapperMap
import DiskTypes
import Foundation
import ImageChain
import MapRegistry
import Testing
import SystemPackage

extension Kernel {
    @Suite struct Trouble {
        private func image(_ name: String) throws -> KernelFixture {
            let images = try KernelFixture(name)
            try must(
                """
                cd \(images.folder); qemu-img create -q -f qcow2 d.qcow2 8M
                qemu-io -f qcow2 -c 'write -P 5 0 64k' -c 'write -P 6 1M 64k' d.qcow2 >/dev/null
                """)
            return images
        }

        @Test func theDeviceKeepsTheLocks() throws {
            let images = try image("locks")
            let record = try images.map("d.qcow2")
            let write = try sh("cd \(images.folder); qemu-io -f qcow2 -c 'write 0 64k' d.qcow2")
            #expect(write.status != 0 && write.out.contains("lock"), "\(write.out)")
            // Reading is shared, also by a second map.
            try must("cd \(images.folder); qemu-img convert -O raw d.qcow2 copy")
            let second = try images.map("d.qcow2", name: "second")
            try DMMap.unmap(second)
            try DMMap.unmap(record)
            try must("cd \(images.folder); qemu-io -f qcow2 -c 'write 0 64k' d.qcow2 >/dev/null")
            // And an image that another process writes to is refused.
            try must("cd \(images.folder); qemu-img create -q -f qcow2 w.qcow2 1M")
            try must("cd \(images.folder); (sleep 4 | qemu-io -f qcow2 w.qcow2) >/dev/null 2>&1 & sleep 1")
            let refused = #expect(throws: ImageError.self) { try images.map("w.qcow2") }
            #expect(refused?.kind == .locked)
            try images.expectNothingLeft(record)
            try must("sleep 3")
        }

        @Test func inUse() throws {
            let images = try image("inuse")
            let record = try images.map("d.qcow2")
            let user = try FileHandle(forReadingFrom: URL(fileURLWithPath: record.device))
            let refused = #expect(throws: ImageError.self) { try DMMap.unmap(record) }
            #expect(refused?.kind == .locked)
            #expect(refused?.description == "/dev/mapper/d.qcow2 is in use: close it first, or use --deferred")
            try must("cmp -n 65536 \(record.device) <(head -c 65536 /dev/zero | tr '\\0' '\\5')")

            try DMMap.unmap(record, deferred: true)
            #expect(try MapRegistry().record(of: record.name)?.deferred == true)
            #expect(try user.read(upToCount: 4) == Data([5, 5, 5, 5]))
            // Its name is taken until it is gone.
            #expect(throws: ImageError.self) { try images.map("d.qcow2") }
            try user.close()
            try must(
                "for i in $(seq 50); do [ -n \"$(losetup -a)\" ] || break; sleep 0.1; done; [ -z \"$(losetup -a)\" ]")
            #expect(try DMMap.sweep() == ["d.qcow2"])
            try images.expectNothingLeft(record)
        }

        @Test func nameTakenBySomebodyElse() throws {
            let images = try image("taken")
            try must("echo '0 8 zero' | dmsetup create d.qcow2 --noudevsync; dmsetup mknodes")
            let refused = #expect(throws: ImageError.self) { try images.map("d.qcow2") }
            #expect(refused?.description.contains("another program") == true, "\(String(describing: refused))")
            #expect(try must("dmsetup table d.qcow2").contains("0 8 zero"))
            // Not even a record that names it makes it ours.
            var record = MapRecord(
                name: "d.qcow2", image: FilePath(images.path("d.qcow2")), format: "qcow2", size: 4096, how: .dm,
                device: "/dev/mapper/d.qcow2", readOnly: true, created: 0)
            record.dmNames = ["d.qcow2"]
            try MapRegistry().create("d.qcow2").write(record)
            try DMMap.unmap(record)
            try must("dmsetup remove d.qcow2; dmsetup mknodes")
            try images.expectNothingLeft(record)
        }

        /// A name proves nothing: removing a device by hand sets its name free for others, also for another qblk's.
        @Test(arguments: ["", "QBLK-0123456789abcdef0123456789abcdef"]) func removedByHandAndTaken(uuid: String) throws
        {
            let images = try image("byhand")
            let record = try images.map("d.qcow2")
            #expect(record.health == .alive)
            try must("dmsetup remove d.qcow2")
            #expect(record.health == .dead)
            let option = uuid.isEmpty ? "" : "--uuid \(uuid)"
            try must("echo '0 8 zero' | dmsetup create d.qcow2 \(option) --noudevsync; dmsetup mknodes")
            #expect(record.health == .dead, "another program's device is not ours")
            try DMMap.unmap(record)
            #expect(try must("dmsetup table d.qcow2").contains("0 8 zero"), "it stays")
            #expect(try MapRegistry().all().isEmpty)
            let refused = #expect(throws: ImageError.self) { try images.map("d.qcow2") }
            #expect(refused?.description.contains("there already") == true)
            try must("dmsetup remove d.qcow2; dmsetup mknodes")
            try images.expectNothingLeft(record)
        }

        /// What a map that was removed by hand left is cleared away by the next, which gets the name.
        @Test func removedByHandAndMappedAgain() throws {
            let images = try image("again")
            _ = try images.map("d.qcow2")
            try must("dmsetup remove d.qcow2")
            let record = try images.map("d.qcow2")
            try images.expectSameBytes(record, "d.qcow2")
            try DMMap.unmap(record)
            try images.expectNothingLeft(record)
        }

        @Test func filesOfOneNameGetMapsOfTwoNames() throws {
            let images = try image("twins")
            try must(
                "cd \(images.folder); mkdir b; cp d.qcow2 b; qemu-io -f qcow2 -c 'write -P 9 0 64k' b/d.qcow2 >/dev/null"
            )
            let first = try images.map("d.qcow2")
            let second = try images.map("b/d.qcow2")
            #expect(second.name == "d.qcow2-2" && second.device == "/dev/mapper/d.qcow2-2")
            try images.expectSameBytes(second, "b/d.qcow2")
            let again = #expect(throws: ImageError.self) { try images.map("d.qcow2") }
            #expect(again?.description.contains("there already") == true)
            try DMMap.unmap(second)
            try DMMap.unmap(first)
            try images.expectNothingLeft(first)
        }

        @Test func blocksOfAnotherSizeAreRefused() throws {
            let images = try image("blocks")
            var options = DMMapOptions(image: FilePath(images.path("d.qcow2")))
            options.open.blockSize = 4096
            let refused = #expect(throws: ImageError.self) { try DMMap.map(options) }
            #expect(refused?.kind == .unsupported && refused?.what.contains("blocks of 512 bytes") == true)
        }

        /// The record is there, and of what it names the first `count` devices, as a crash would leave them.
        @Test(arguments: [0, 1, 2]) func crashedWhileMapping(made count: Int) throws {
            let images = try image("crash\(count)")
            let naming = DMNaming(name: "d.qcow2", uuid: "QBLK-0123456789abcdef0123456789abcdef")
            var record = MapRecord(
                name: "d.qcow2", image: FilePath(images.path("d.qcow2")), format: "qcow2", size: 8 << 20, how: .dm,
                device: "/dev/mapper/d.qcow2", readOnly: true, created: 0)
            record.dmNames = [naming.name, naming.zerosName]
            try MapRegistry().create("d.qcow2").write(record)
            if count > 0 {
                let spec = DMDeviceSpec(
                    name: naming.zerosName, uuid: naming.zerosUUID, readOnly: true, isInternal: true)
                let zeros = try DeviceMapper.shared.create(spec, count: 1) { _ in
                    DMTarget(start: 0, length: 16384, type: "zero")
                }
                if count > 1 {
                    _ = try DeviceMapper.shared.create(
                        DMDeviceSpec(name: naming.name, uuid: naming.uuid, readOnly: true), count: 1
                    ) { _ in DMTarget(start: 0, length: 16384, type: "linear", parameters: "\(zeros.number) 0") }
                }
            }
            if count > 1 {
                // All devices are there: it counts as a map, and unmap takes it.
                #expect(throws: ImageError.self) { try images.map("d.qcow2") }
                try DMMap.unmap(record)
                try images.expectNothingLeft(record)
            }
            let fresh = try images.map("d.qcow2")
            try images.expectSameBytes(fresh, "d.qcow2")
            try DMMap.unmap(fresh)
            try images.expectNothingLeft(fresh)
        }

        /// The second of two loops fails: the first one, the record and the locks are gone again.
        @Test func aFailedStepIsUndone() throws {
            let images = try KernelFixture("undo")
            try images.makeChain()
            let chain = try ImageChain.open(path: FilePath(images.path("top.qcow2")))
            // Behind the chain's back, as no honest program would.
            try must("truncate -s 1M \(images.path("base.raw"))")
            let options = DMMapOptions(image: FilePath(images.path("top.qcow2")))
            let failed = #expect(throws: ImageError.self) { try DMMap.map(chain, options) }
            #expect(failed?.description.contains("smaller than the file was") == true, "\(String(describing: failed))")
            #expect(failed?.path?.hasSuffix("base.raw") == true)
            #expect(
                try must("losetup -a; dmsetup ls; ls -A /run/qblk | grep -v '^.lock$' || true") == "No devices found\n")
        }

        @Test func orphanedZeroDevice() throws {
            let naming = try DMNaming(name: "x")
            let spec = DMDeviceSpec(name: naming.zerosName, uuid: naming.zerosUUID, readOnly: true, isInternal: true)
            _ = try DeviceMapper.shared.create(spec, count: 1) { _ in DMTarget(start: 0, length: 8, type: "zero") }
            #expect(try must("ls /dev/mapper") == "control\n")
            #expect(try DMMap.sweep() == [naming.zerosName])
            #expect(try DeviceMapper.shared.devices(uuidPrefix: DMNaming.uuidPrefix).isEmpty)
        }

        /// A staged table beyond its device: the kernel refuses at resume and would leave the device suspended.
        @Test(.timeLimit(.minutes(1))) func aRefusedTableHangsNobody() throws {
            let images = try image("refused")
            let record = try images.map("d.qcow2")
            let loop = "7:\(record.loops[0])"
            try DeviceMapper.shared.load(name: record.name, readOnly: true, count: 1) { _ in
                DMTarget(start: 0, length: 1 << 30, type: "linear", parameters: "\(loop) 0")
            }
            #expect(throws: ImageError.self) { try DeviceMapper.shared.resume(name: record.name) }
            let device = try #require(try DeviceMapper.shared.info(name: record.name))
            #expect(!device.suspended && device.hasTable && !device.hasStagedTable)
            try images.expectSameBytes(record, "d.qcow2")

            try DeviceMapper.shared.suspend(name: record.name)
            #expect(try DeviceMapper.shared.info(name: record.name)?.suspended == true)
            try DeviceMapper.shared.resume(name: record.name)
            #expect(try DeviceMapper.shared.info(name: record.name)?.suspended == false)
            try DMMap.unmap(record)
            try images.expectNothingLeft(record)
        }

        /// Udev's socket without udev, as in containers: no answer would ever come.
        @Test(.disabled(if: DMCapabilities().hasUdev, "udev is alive"), .timeLimit(.minutes(1)))
        func aDeadUdevSocketHangsNobody() throws {
            let images = try image("deadudev")
            try must("mkdir -p /run/udev; touch /run/udev/control")
            #expect(DMCapabilities().hasUdev == false)
            let record = try images.map("d.qcow2")
            try images.expectSameBytes(record, "d.qcow2")
            try DMMap.unmap(record)
            try must("rm /run/udev/control")
            try images.expectNothingLeft(record)
            #expect(try must("ipcs -s | grep -c 0x0d4d || true") == "0\n")
        }

        /// With udev, its link is there on return, its rules leave the zero device alone, and no semaphore stays.
        @Test(.enabled(if: DMCapabilities().hasUdev, "udev does not run here"))
        func aLiveUdevMakesTheLinks() throws {
            let images = try image("udev")
            let record = try images.map("d.qcow2")
            #expect(try must("readlink \(record.device)").hasPrefix("../dm-"))
            #expect(try must("ls /dev/mapper") == "control\nd.qcow2\n")
            #expect(try must("ls /dev/disk/by-id").contains("dm-name-d.qcow2\n"))
            #expect(try must("ls /dev/disk/by-id | grep -c qblk-zero || true") == "0\n")
            try DMMap.unmap(record)
            try images.expectNothingLeft(record)
            #expect(try must("ipcs -s | grep -c 0x0d4d || true") == "0\n")
        }
    }
}
