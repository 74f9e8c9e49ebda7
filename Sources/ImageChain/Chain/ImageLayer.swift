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

/// What a lookup needs of a layer, as plain bytes: copying an `ImageLayer` would count references, and counting the
/// references of objects that all workers share is what makes workers slow each other down.
@safe struct LayerSide: BitwiseCopyable {
    let size: UInt64
    let metadataFile: UInt16
    let dataFile: UInt16
    private var raw: RawMap
    /// Owned by the layer, which lives as long as the chain; nil for raw layers.
    private let qcow2: Unmanaged<QCOW2Map>?

    /// `canGrow`: the layer is raw and ends only where the disk does, which the caller has checked.
    init(_ layer: ImageLayer, canGrow: Bool) {
        size = canGrow ? RawMap.largest : layer.size
        metadataFile = layer.metadataFile
        dataFile = layer.dataFile
        switch layer.map {
        case .raw(let map):
            raw = canGrow ? RawMap(fileLength: RawMap.largest) : map
            qcow2 = nil
        case .qcow2(let map):
            raw = RawMap(fileLength: 0)
            qcow2 = Unmanaged.passUnretained(map)
        }
    }

    /// The raw file is not believed any more. One aligned word changes: others see the old one or the new one.
    mutating func loseRaw() { raw.lose() }

    @inline(__always) func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        guard let qcow2 else { return raw.lookup(guest, length: length) }
        return qcow2._withUnsafeGuaranteedRef { $0.lookup(guest, length: length) }
    }

    @inline(__always) func plainOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        guard let qcow2 else { return raw.plainOffset(guest, length: length) }
        return qcow2._withUnsafeGuaranteedRef { $0.plainOffset(guest, length: length) }
    }

    @inline(__always) func overwritableOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        guard let qcow2 else { return raw.plainOffset(guest, length: length) }
        return qcow2._withUnsafeGuaranteedRef { $0.overwritableOffset(guest, length: length) }
    }

    func lookupForWrite(_ guest: GuestOffset, length: UInt64) -> WriteAnswer {
        guard let qcow2 else { return raw.lookupForWrite(guest, length: length) }
        return qcow2._withUnsafeGuaranteedRef { $0.lookupForWrite(guest, length: length) }
    }

    func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {
        qcow2?._withUnsafeGuaranteedRef { $0.supply(table, bytes) }
    }
}
