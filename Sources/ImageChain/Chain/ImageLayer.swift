// One image of a chain: its file, what its header says, and its map.

public import DiskTypes
import LinuxIO
public import SystemPackage
public import QCOW2

/// One layer of an opened chain. Layer 0 is the image that was asked for.
public struct ImageLayer: Sendable {
    /// The name it was opened by.
    public let path: FilePath
    /// The format that the layer is read as.
    public let format: ImageFormat
    /// The header, for QCOW2 layers.
    public let image: QCOW2Image?
    /// Bytes of this layer's disk (of the snapshot's, where one is read).
    public let size: UInt64
    /// The index in the chain's files of the file that has the tables; `dataFile`: the one that has the data.
    public let metadataFile: UInt16
    /// See `metadataFile`: the same, unless the image has an external data file.
    public let dataFile: UInt16
    let map: LayerMap

    /// Bytes of a cluster; 64 KiB for a raw layer, which has none.
    public var clusterSize: UInt64 {
        if case .qcow2(let map) = map { map.clusterSize } else { 65536 }
    }
    /// How compressed clusters are compressed (header: compression_type); a raw layer has none.
    public var compression: CompressionMethod {
        if case .qcow2(let map) = map { map.compression } else { .deflate }
    }
}

/// The formats, behind one switch: cheaper than an existential on the path of every request.
enum LayerMap: Sendable {
    case raw(RawMap)
    case qcow2(QCOW2Map)
}
