// An opened image with everything below it, as one map: ask where bytes are, get the answer of the first layer that
// has one. Doors and the engine see no formats, only this.

public import DiskTypes
import Glibc
public import LinuxIO
import QCOW2
import Synchronization

/// An image and its backing chain. Shared by all workers of the image.
@safe public final class ImageChain: BlockMap {
    /// From the active image down to the base.
    public let layers: [ImageLayer]
    /// Every file that an `Extent.file` or a `TableRead.file` can name.
    public let files: [HostFile]
    /// Bytes of the guest's disk: a multiple of 512. Grows when `refreshSize` finds that a raw image has grown.
    public var size: UInt64 { currentSize.load(ordering: .relaxed) }
    private let currentSize: Atomic<UInt64>
    /// The active image may be written.
    public let isWritable: Bool
    /// What changes the mapping of a writable QCOW2 image; raw images have none.
    public let writer: ImageWriter?
    /// The layers again, as lookups want them; as many as `layers`.
    private nonisolated(unsafe) let views: UnsafeMutablePointer<LayerView>
    private let depth: Int
    /// The errno of a flush that failed: see `flushed`.
    private let flushFailure = Atomic<Int32>(0)

    init(layers: [ImageLayer], files: [HostFile], isWritable: Bool = false, writer: ImageWriter? = nil) {
        self.writer = writer
        self.isWritable = isWritable
        self.layers = layers
        self.files = files
        currentSize = Atomic(layers.first?.size ?? 0)
        depth = layers.count
        unsafe views = .allocate(capacity: max(layers.count, 1))
        for (i, layer) in layers.enumerated() {
            let canGrow = i == 0 && isWritable && layer.format == .raw
            unsafe (views + i).initialize(to: LayerView(layer, canGrow: canGrow))
        }
    }

    deinit {
        do throws(ImageError) { try close() } catch {}  // A caller that wants the error has closed it before.
        unsafe views.deallocate()
    }

    /// Brings every change of the mapping to the disk and ends writing. No request may be in flight, none may come.
    public func close() throws(ImageError) { try writer?.close() }

    /// `close`, and gives QEMU's locks back at once: else they last until the kernel has taken the workers' rings down, a
    /// moment after their end. Not while loop devices of the files exist: those keep the locks.
    public func closeAndUnlock() throws(ImageError) {
        defer { for file in files { ImageLock.release(file) } }
        try close()
    }

    /// Throws when a file has been cut since it was opened: what was read of it last may have been zeros instead of its
    /// bytes. To be asked once everything is read.
    public func requireWholeFiles() throws(ImageError) {
        for file in files { try file.requireBytes() }
    }

    /// Looks whether the file or device of a writable raw image has grown; true when the disk has. A disk never shrinks
    /// here.
    public func refreshSize() throws(ImageError) -> Bool {
        guard isRaw, isWritable, let file = layers.first.map({ files[Int($0.dataFile)] }) else { return false }
        let length = try file.presentLength() & ~511
        guard length > size else { return false }
        file.grow(to: length)
        currentSize.store(length, ordering: .releasing)
        return true
    }

    /// Where `length` bytes at `guest` are, in the first layer that maps them. `unallocated` means no layer has: the
    /// bytes read as zeros. See `BlockMap.lookup`.
    public func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        var length = length
        var layer = 0
        while true {
            let view = unsafe views + layer
            // A backing file shorter than its overlay reads as zeros past its end.
            guard unsafe guest.bytes < view.pointee.size else {
                return .extent(
                    Extent(guest: guest, length: length, kind: .zero, layer: UInt16(truncatingIfNeeded: layer)))
            }
            length = unsafe min(length, view.pointee.size &- guest.bytes)
            let answer = unsafe view.pointee.lookup(guest, length: length)
            guard case .extent(let extent) = answer, extent.kind.isUnallocated, layer &+ 1 < depth else {
                return unsafe Self.placed(answer, view, layer)
            }
            length = extent.length
            layer &+= 1
        }
    }

    /// Where `length` (> 0) bytes at `guest` are in layer `depth` alone: `unallocated` means that the next layer says.
    /// The range must lie inside that layer's size. Otherwise as `lookup`: `extents` and `compare -s` want to know what
    /// each layer has on its own.
    public func lookup(_ guest: GuestOffset, length: UInt64, inLayer layer: Int) -> MapAnswer {
        precondition(layer >= 0 && layer < depth, "no such layer")
        let view = unsafe views + layer
        return unsafe Self.placed(view.pointee.lookup(guest, length: length), view, layer)
    }

    /// The short way for the commonest request: where the `length` bytes at `guest` are in file `activeDataFile`, when
    /// the active image holds them all as plain data and that can be told without I/O. nil means only: ask `lookup`.
    public func plainOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        unsafe views.pointee.plainOffset(guest, length: length)
    }

    /// The same for a write: nil means only: ask `lookupForWrite`. Only for a chain that is writable.
    public func overwritableOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        unsafe views.pointee.overwritableOffset(guest, length: length)
    }

    /// Whether `length` (> 0) bytes at `guest` can be written where they are, in the active image. The range must lie
    /// inside `size`.
    public func lookupForWrite(_ guest: GuestOffset, length: UInt64) -> WriteAnswer {
        let view = unsafe views
        switch unsafe view.pointee.lookupForWrite(guest, length: length) {
        case .inPlace(var extent):
            extent.file = unsafe view.pointee.dataFile
            return .inPlace(extent)
        case .needs(var table):
            table.file = unsafe view.pointee.metadataFile
            return .needs(table)
        case .allocate(let length): return .allocate(length)
        case .damaged(let damage): return .damaged(damage)
        }
    }

    /// What to answer to a flush whose fdatasync ended with `error` (0: well). The kernel reports a page that it could not
    /// write once and then forgets it; after that no later flush through the page cache can promise anything.
    public func flushed(_ error: Int32, buffered: Bool) -> Int32 {
        if error != 0, buffered { flushFailure.store(error, ordering: .relaxed) }
        if error == 0, isCut() { return EIO }
        return error != 0 ? error : flushFailure.load(ordering: .relaxed)
    }

    /// Looks whether the active image's files have become shorter, and then gives them up: a write in place would make
    /// them longer again, and what was lost would read as zeros. True from then on. Asks the system: not for every request.
    public func isCut() -> Bool {
        guard isWritable else { return false }
        if wasCut { return true }
        let top = layers[0]
        do throws(ImageError) {
            try files[Int(top.metadataFile)].requireBytes()
            if top.dataFile != top.metadataFile { try files[Int(top.dataFile)].requireBytes() }
            return false
        } catch {
            // A device that cannot be asked has not become shorter.
            guard error.kind == .malformed else { return false }
            loseActiveFile()
            return true
        }
    }

    /// What `isCut` has found before.
    public var wasCut: Bool { hasCut.load(ordering: .relaxed) || writer?.plan.isCut ?? false }
    private let hasCut = Atomic<Bool>(false)

    private func loseActiveFile() {
        hasCut.store(true, ordering: .relaxed)
        writer?.plan.foundCut()
        unsafe views.pointee.loseRaw()
    }

    /// Whether the active image is raw: its file is the disk.
    public var isRaw: Bool { layers.first?.format == .raw }

    /// The file that `plainOffset` speaks of.
    public var activeDataFile: UInt16 { unsafe views.pointee.dataFile }

    /// The layer's answer with the chain's numbers for layer and file.
    @inline(__always)
    private static func placed(_ answer: MapAnswer, _ view: UnsafeMutablePointer<LayerView>, _ layer: Int) -> MapAnswer
    {
        switch answer {
        case .extent(var extent):
            extent.layer = UInt16(truncatingIfNeeded: layer)
            extent.file = unsafe view.pointee.dataFile
            return .extent(extent)
        case .needs(var table):
            table.layer = UInt16(truncatingIfNeeded: layer)
            table.file = unsafe view.pointee.metadataFile
            return .needs(table)
        case .damaged(var damage):
            damage.layer = UInt16(truncatingIfNeeded: layer)
            return .damaged(damage)
        }
    }

    /// Hands in the table that `lookup` named. See `BlockMap.supply`.
    public func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {
        unsafe views[Int(table.layer)].supply(table, bytes)
    }

    /// How compressed clusters of a layer are compressed.
    public func compression(ofLayer layer: UInt16) -> CompressionMethod { layers[Int(layer)].compression }

    /// Bytes of one cluster of a layer; what a compressed extent inflates to.
    public func clusterSize(ofLayer layer: UInt16) -> Int { Int(layers[Int(layer)].clusterSize) }
}

/// What a lookup needs of a layer, as plain bytes: copying an `ImageLayer` would count references, and counting the
/// references of objects that all workers share is what makes workers slow each other down.
@safe struct LayerView: BitwiseCopyable {
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
            unsafe qcow2 = nil
        case .qcow2(let map):
            raw = RawMap(fileLength: 0)
            unsafe qcow2 = unsafe Unmanaged.passUnretained(map)
        }
    }

    /// The raw file is not believed any more. One aligned word changes: others see the old one or the new one.
    mutating func loseRaw() { raw.lose() }

    @inline(__always) func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        guard let qcow2 = unsafe qcow2 else { return raw.lookup(guest, length: length) }
        return unsafe qcow2._withUnsafeGuaranteedRef { $0.lookup(guest, length: length) }
    }

    @inline(__always) func plainOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        guard let qcow2 = unsafe qcow2 else { return raw.plainOffset(guest, length: length) }
        return unsafe qcow2._withUnsafeGuaranteedRef { $0.plainOffset(guest, length: length) }
    }

    @inline(__always) func overwritableOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        guard let qcow2 = unsafe qcow2 else { return raw.plainOffset(guest, length: length) }
        return unsafe qcow2._withUnsafeGuaranteedRef { $0.overwritableOffset(guest, length: length) }
    }

    func lookupForWrite(_ guest: GuestOffset, length: UInt64) -> WriteAnswer {
        guard let qcow2 = unsafe qcow2 else { return raw.lookupForWrite(guest, length: length) }
        return unsafe qcow2._withUnsafeGuaranteedRef { $0.lookupForWrite(guest, length: length) }
    }

    func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {
        unsafe qcow2?._withUnsafeGuaranteedRef { unsafe $0.supply(table, bytes) }
    }
}
