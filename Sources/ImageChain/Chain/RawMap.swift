// The map of a raw image: guest offset = host offset, and zeros past the end of the file. The engine never asks which
// kind of map it has.

import DiskTypes

/// The map of a raw file: its bytes, then zeros up to the next whole sector.
struct RawMap: BlockMap, BitwiseCopyable {
    /// The longest file there can be, in whole sectors.
    static let largest = UInt64(Int64.max) & ~511

    /// 0 once the file was cut while it was in use: then none of its bytes is believed.
    private(set) var fileLength: UInt64
    let size: UInt64

    init(fileLength: UInt64) {
        self.fileLength = fileLength
        size = (fileLength + 511) & ~511
    }

    mutating func lose() { fileLength = 0 }

    private func lost(_ guest: GuestOffset, _ length: UInt64) -> MapDamage {
        MapDamage(reason: .fileWasCut, guest: guest, length: length, table: HostOffset(0))
    }

    func lookup(_ guest: GuestOffset, length: UInt64) -> MapAnswer {
        guard guest.bytes < fileLength else {
            if fileLength == 0 { return .damaged(lost(guest, length)) }
            return .extent(Extent(guest: guest, length: length, kind: .zero))
        }
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
        guard guest.bytes < fileLength else {
            return fileLength == 0 ? .damaged(lost(guest, length)) : .allocate(length)
        }
        return .inPlace(
            Extent(
                guest: guest, length: min(length, fileLength - guest.bytes), kind: .data,
                host: HostOffset(guest.bytes)))
    }

    func supply(_ table: TableRead, _ bytes: UnsafeRawBufferPointer) {}
}
