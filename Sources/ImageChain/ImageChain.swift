// Why this file exists: an opened image with everything below it, as one map: ask where bytes are, get the answer of
// the first layer that has one. Doors and the engine see no formats, only this.

public import DiskTypes
public import LinuxIO

/// An image and its backing chain, open for reading. Shared by all workers of the image.
public final class ImageChain: BlockMap {
    /// Every file that an `Extent.file` or a `TableRead.file` can name.
    public let files: [HostFile]
    /// Bytes of the guest's disk: a multiple of 512.
    public let size: UInt64

    init(files: [HostFile], size: UInt64) {
        self.files = files
        self.size = size
    }

    /// Where `length` bytes at `guest` are. See `BlockMap.lookup`.
    public func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        .extent(Extent(guest: guest, length: length, kind: .zero))
    }

    /// Hands in the table that `lookup` named. See `BlockMap.supply`.
    public func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {}

    /// How compressed clusters of a layer are compressed.
    public func compression(ofLayer layer: UInt16) -> CompressionMethod { .deflate }

    /// Bytes of one cluster of a layer; what a compressed extent inflates to.
    public func clusterSize(ofLayer layer: UInt16) -> Int { 65536 }

    /// Opens `path` and its backing chain.
    public static func open(path: String, options: OpenOptions = OpenOptions()) throws(ImageError) -> ImageChain {
        throw .unsupported("not opened yet")
    }
}
