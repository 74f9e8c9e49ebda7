// Tables come one cluster at a time, and clusters can be as small as a sector. They leave in writes of a megabyte.

import DiskTypes
import LinuxIO
import QCOW2

/// Gathers tables that lie side by side and writes them together.
struct TableSink: ~Copyable {
    private static let enough = 1 << 20

    private let file: HostFile
    private let clusterSize: Int
    private var start = HostOffset(0)
    private var bytes: [UInt8] = []

    init(_ file: HostFile, clusterSize: UInt64) {
        self.file = file
        self.clusterSize = Int(clusterSize)
    }

    mutating func write(_ table: TableWrite) throws(ImageError) {
        // What a table leaves of its cluster is a hole in a new file, but a device has old bytes there.
        let padding = file.isBlockDevice ? (clusterSize - table.bytes.count % clusterSize) % clusterSize : 0
        if start + UInt64(bytes.count) != table.host || bytes.count >= Self.enough {
            try flush()
            start = table.host
        }
        bytes += table.bytes
        bytes += repeatElement(0, count: padding)
    }

    mutating func flush() throws(ImageError) {
        if !bytes.isEmpty { try file.write(at: start, bytes) }
        bytes.removeAll(keepingCapacity: true)
    }
}
