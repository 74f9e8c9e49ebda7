// Why this file exists: raw is a format too: guest offset = host offset, and zeros past the end of the file. As a map
// it is this small, and the engine never asks which kind it has.

import DiskTypes

/// The map of a raw file: its bytes, then zeros up to the next whole sector.
struct RawMap: BlockMap, BitwiseCopyable {
    /// The longest file there can be, in whole sectors.
    static let largest = UInt64(Int64.max) & ~511

    let fileLength: UInt64
    let size: UInt64

    init(fileLength: UInt64) {
        self.fileLength = fileLength
        size = (fileLength + 511) & ~511
    }

    func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        guard guest.bytes < fileLength else { return .extent(Extent(guest: guest, length: length, kind: .zero)) }
        return .extent(
            Extent(
                guest: guest, length: min(length, fileLength - guest.bytes), kind: .data,
                host: HostOffset(guest.bytes)))
    }

    /// See `QCOW2Map.plainOffset`.
    @inline(__always) func plainOffset(_ guest: GuestOffset, length: UInt64) -> HostOffset? {
        guest.bytes < fileLength && length <= fileLength &- guest.bytes ? HostOffset(guest.bytes) : nil
    }

    /// A raw file that is written has whole sectors.
    func lookupForWrite(_ guest: GuestOffset, length: UInt64) -> WriteAnswer {
        guard guest.bytes < fileLength else { return .allocate(length) }
        return .inPlace(
            Extent(
                guest: guest, length: min(length, fileLength - guest.bytes), kind: .data,
                host: HostOffset(guest.bytes)))
    }

    func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {}
}
