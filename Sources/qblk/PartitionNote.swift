// Why this file exists: whoever maps a partitioned disk looks for its partitions. Where the kernel does not show them by
// itself (device-mapper never does; some kernels know no partition tables) `map` says how to get them.

import DiskTypes
import LinuxIO
import MapRegistry

enum PartitionNote {
    /// One line on standard error if the device has a partition table and no partitions.
    static func sayIfNeeded(_ record: MapRecord) {
        guard hasPartitionTable(record.device), !showsPartitions(record) else { return }
        let tool = record.how == .dm ? "kpartx -a" : "partx -a"
        Notice.say("\(printable(record.image)): the disk has partitions: `\(tool) \(record.device)` shows them")
    }

    /// A boot signature with a partition of a plausible kind in the first four slots.
    private static func hasPartitionTable(_ device: String) -> Bool {
        guard let file = try? HostFile.open(path: device, direct: .never),
            let sector = try? file.read(at: HostOffset(0), count: 512), sector.count == 512,
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
