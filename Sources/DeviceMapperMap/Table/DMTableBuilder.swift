// The one place that turns extents (bytes) into lines (sectors), merges them, and finds what device-mapper cannot
// express.

public import DiskTypes

/// Collects the extents of a disk, in order and without gaps, into a table.
public struct DMTableBuilder {
    /// The disk's end in bytes, and its last sector's end in sectors.
    private let size: UInt64
    private let end: UInt64
    private let fileLengths: [UInt64]
    private var lines: [DMLine] = []

    /// A table for a disk of `size` bytes over files of these lengths.
    public init(size: UInt64, fileLengths: [UInt64]) throws(DMUnsupported) {
        guard size > 0 else { throw DMUnsupported(.emptyDisk) }
        let (padded, overflow) = size.addingReportingOverflow(DMLimits.sectorSize - 1)
        guard !overflow, padded <= DMLimits.maxDeviceBytes else { throw DMUnsupported(.diskTooLarge) }
        self.size = size
        end = padded / DMLimits.sectorSize
        self.fileLengths = fileLengths
    }

    /// First byte that no extent has covered yet.
    public var next: GuestOffset { GuestOffset(sector * DMLimits.sectorSize) }
    private var sector: UInt64 { lines.last.map { $0.start + $0.length } ?? 0 }

    /// Takes in the extent that begins at `next`.
    public mutating func add(_ extent: Extent) throws(DMUnsupported) {
        switch extent.kind {
        case .unallocated, .unallocatedReserved, .zero, .zeroAllocated:
            try append(.zeros, at: extent.guest, bytes: extent.length, blame: extent.file)
        case .data: try addData(extent)
        case .compressed: throw DMUnsupported(.compressed, at: extent.guest)
        }
    }

    /// Takes in a range that cannot be read: reading it will be an I/O error, the rest stays readable.
    public mutating func add(_ damage: MapDamage) throws(DMUnsupported) {
        try append(.error, at: damage.guest, bytes: damage.length, blame: 0)
    }

    /// The table, once the extents have covered the disk.
    public consuming func finish() throws(DMUnsupported) -> DMTable {
        guard sector == end else { throw DMUnsupported(.incomplete, at: next) }
        return DMTable(lines: lines)
    }

    // MARK: -

    /// Data: as far as the file has whole sectors it is a line. Beyond the file's end it is lost, not zero: an image
    /// has every byte that its guest can see, so reading what is missing is an I/O error.
    private mutating func addData(_ extent: Extent) throws(DMUnsupported) {
        let misaligned = DMUnsupported(.misaligned(file: extent.file), at: extent.guest)
        guard Int(extent.file) < fileLengths.count, extent.host.bytes % DMLimits.sectorSize == 0 else {
            throw misaligned
        }
        let (hostEnd, overflow) = extent.host.bytes.addingReportingOverflow(extent.length)
        guard !overflow else { throw misaligned }
        let fileEnd = fileLengths[Int(extent.file)]
        let wholeEnd = fileEnd - fileEnd % DMLimits.sectorSize
        let inside = min(hostEnd, max(wholeEnd, extent.host.bytes)) - extent.host.bytes
        if inside > 0 {
            try append(
                .file(extent.file), offset: extent.host.bytes / DMLimits.sectorSize, at: extent.guest, bytes: inside,
                blame: extent.file)
        }
        guard inside < extent.length else { return }
        let rest = extent.guest + inside
        guard extent.host.bytes + inside >= fileEnd else {
            throw DMUnsupported(.partialSector(file: extent.file), at: rest)
        }
        try append(.error, at: rest, bytes: extent.length - inside, blame: extent.file)
    }

    private mutating func append(
        _ source: DMSource, offset: UInt64 = 0, at guest: GuestOffset, bytes: UInt64, blame file: UInt16
    ) throws(DMUnsupported) {
        let (rangeEnd, overflow) = guest.bytes.addingReportingOverflow(bytes)
        guard !overflow, rangeEnd <= size, guest == next, bytes > 0 else {
            throw DMUnsupported(.misaligned(file: file), at: guest)
        }
        // The disk's own end may lie inside the last sector: that sector is whole on the device.
        let sectorEnd = rangeEnd == size ? end : rangeEnd / DMLimits.sectorSize
        guard rangeEnd == size || rangeEnd % DMLimits.sectorSize == 0 else {
            throw DMUnsupported(.misaligned(file: file), at: GuestOffset(sectorEnd * DMLimits.sectorSize))
        }
        let start = guest.bytes / DMLimits.sectorSize
        try append(DMLine(start: start, length: sectorEnd - start, source: source, offset: offset))
    }

    private mutating func append(_ line: DMLine) throws(DMUnsupported) {
        if let last = lines.last, last.continues(into: line) {
            lines[lines.count - 1].length += line.length
            return
        }
        guard lines.count < DMLimits.maxTargets else {
            throw DMUnsupported(.tooManyTargets(limit: DMLimits.maxTargets), at: next)
        }
        lines.append(line)
    }
}
