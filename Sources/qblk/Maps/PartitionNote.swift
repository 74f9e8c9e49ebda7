// Tells the user of a partitioned disk how to get its partitions, where the kernel does not show them by itself.
// Device-mapper never does; some kernels know no partition tables; a table may count in other blocks than the device.

import DiskTypes
import LinuxIO
import MapRegistry
import SystemPackage

enum PartitionNote {
    /// Prints one line on standard error if the device, which has blocks of `blockSize` bytes, has a partition table
    /// and no partitions.
    static func sayIfNeeded(_ record: MapRecord, blockSize: Int) {
        guard let device = try? HostFile.open(path: FilePath(record.device), direct: .never) else { return }
        if let size = blockSizeOfGPT(device, instead: blockSize) {
            return Notice.say(
                "\(record.image): the disk was partitioned with blocks of \(size) bytes: unmap it, and map it "
                    + "with --block-size \(size) to see its partitions")
        }
        guard hasPartitionTable(device), !showsPartitions(record) else { return }
        let tool = record.how == .dm ? "kpartx -a" : "partx -a"
        Notice.say("\(record.image): the disk has partitions: `\(tool) \(record.device)` shows them")
    }

    /// The block size that a GPT counts in, if it is not the device's: its header is in block 1, and says so.
    private static func blockSizeOfGPT(_ device: HostFile, instead blockSize: Int) -> Int? {
        if hasGPT(device, blockSize) { return nil }
        return [512, 1024, 2048, 4096].first { hasGPT(device, $0) }
    }

    /// UEFI specification, GPT header: signature at byte 0, and at byte 24 the number of the header's own block.
    private static func hasGPT(_ device: HostFile, _ blockSize: Int) -> Bool {
        guard let header = try? device.read(at: HostOffset(UInt64(blockSize)), count: 32), header.count == 32 else {
            return false
        }
        return header.starts(with: "EFI PART".utf8) && header[24] == 1 && header[25..<32].allSatisfy { $0 == 0 }
    }

    /// A boot signature with a partition of a plausible kind in the first four slots.
    private static func hasPartitionTable(_ device: HostFile) -> Bool {
        guard let sector = try? device.read(at: HostOffset(0), count: 512), sector.count == 512,
            sector[510] == 0x55, sector[511] == 0xaa
        else { return false }
        return (0..<4).contains { slot in
            let entry = 446 + 16 * slot
            return (sector[entry] == 0 || sector[entry] == 0x80) && sector[entry + 4] != 0
        }
    }

    private static func showsPartitions(_ record: MapRecord) -> Bool {
        guard record.how != .dm, let name = record.device.split(separator: "/").last else { return false }
        return (try? Filesystem.list("/sys/block/\(name)"))?.contains { $0.hasPrefix("\(name)p") } ?? false
    }
}
