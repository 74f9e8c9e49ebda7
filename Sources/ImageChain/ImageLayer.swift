// Why this file exists: one image of a chain: its file, what its header says, and its map.

public import DiskTypes
import LinuxIO
public import QCOW2

/// One layer of an opened chain. Layer 0 is the image that was asked for.
public struct ImageLayer: Sendable {
    /// The name it was opened by.
    public let path: String
    public let format: ImageFormat
    /// The header, for QCOW2 layers.
    public let image: QCOW2Image?
    /// Bytes of this layer's disk (of the snapshot's, where one is read).
    public let size: UInt64
    /// Indices in the chain's files: where the tables are and where the data is.
    public let metadataFile: UInt16
    public let dataFile: UInt16
    let map: LayerMap

    public var clusterSize: UInt64 {
        if case .qcow2(let map) = map { map.clusterSize } else { 65536 }
    }
    public var compression: CompressionMethod {
        if case .qcow2(let map) = map { map.compression } else { .deflate }
    }
}

/// The formats, behind one switch: cheaper than an existential on the path of every request.
enum LayerMap: Sendable {
    case raw(RawMap)
    case qcow2(QCOW2Map)

    @inline(__always)
    func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        switch self {
        case .raw(let map): map.lookup(guest, length: length)
        case .qcow2(let map): map.lookup(guest, length: length)
        }
    }

    func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {
        if case .qcow2(let map) = self { unsafe map.supply(table, bytes) }
    }
}
