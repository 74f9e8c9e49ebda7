// Device-mapper takes block devices, images are files: a read-only loop device for each file that the table uses.
// They carry the image's locks, and they detach by themselves.

import CQblk
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import SystemPackage

/// The loop devices of a map in the making.
struct DMLoops {
    private var devices: [(file: UInt16, loop: LoopDevice)] = []
    /// What the table calls them.
    private(set) var names: [UInt16: String] = [:]

    var numbers: [Int32] { devices.map(\.loop.number) }

    /// Attaches each file of `chain` that `table` uses.
    ///
    /// It is the chain's own descriptor that is attached: QEMU's locks belong to the open file description, which the
    /// loop device keeps. So the image stays locked for as long as the device exists, with no process of ours.
    init(_ chain: ImageChain, _ table: DMTable, direct: Bool) throws(ImageError) {
        for file in table.files {
            let source = chain.files[Int(file)]
            do throws(ImageError) {
                // Lines are whole sectors of 512 bytes, whatever the disk below prefers. Where it cannot do direct
                // I/O in such units, the kernel goes through the page cache.
                let loop = try LoopDevice.attach(
                    fd: source.fd, readOnly: true, directIO: direct, autoClear: true, blockSize: 512, name: source.path)
                devices.append((file, loop))
                names[file] = try DMLoops.checked(loop, table.sectorsNeeded(ofFile: file)).description
            } catch {
                throw error.named(source.path)
            }
        }
    }

    /// Leaves the loops to their users; without any they detach.
    func release() {
        for device in devices { device.loop.release() }
    }

    /// The device's number, if it has as many sectors as the table needs. The kernel would find out too late: it checks
    /// a table against sizes after the device is suspended.
    private static func checked(_ loop: LoopDevice, _ needed: UInt64) throws(ImageError) -> DeviceNumber {
        var status = stat()
        guard unsafe stat(loop.path, &status) == 0, status.st_mode & S_IFMT == S_IFBLK else {
            throw ImageError(.system, "\(loop.path) is no block device")
        }
        let text = Filesystem.readIfThere("/sys/block/loop\(loop.number)/size") ?? ""
        guard let sectors = UInt64(text.prefix { $0 != "\n" }), sectors >= needed else {
            throw ImageError(.system, "\(loop.path) is smaller than the file was when it was opened")
        }
        return DeviceNumber(major: qb_major(UInt64(status.st_rdev)), minor: qb_minor(UInt64(status.st_rdev)))
    }

    // MARK: - afterwards

    /// A loop device below a map's device, and the file it stands for.
    struct Below: Equatable {
        let name: String
        let file: FilePath

        var isThere: Bool { DMLoops.backing(name) == file }
    }

    /// The loop devices that a device-mapper device stands on.
    static func below(_ device: DeviceNumber) -> [Below] {
        Filesystem.listIfThere("/sys/block/dm-\(device.minor)/slaves").compactMap { name in
            guard name.hasPrefix("loop"), let file = backing(name) else { return nil }
            return Below(name: name, file: file)
        }
    }

    /// Waits a moment for loops to detach, which they do when the kernel has closed them: the caller of unmap may
    /// open it for writing at once, and the locks end with the loops.
    static func waitUntilDetached(_ loops: [Below]) {
        for _ in 0..<100 where loops.contains(where: \.isThere) { usleep(10_000) }
    }

    private static func backing(_ name: String) -> FilePath? {
        Int32(name.dropFirst(4)).flatMap(LoopDevice.backingFile)
    }
}
