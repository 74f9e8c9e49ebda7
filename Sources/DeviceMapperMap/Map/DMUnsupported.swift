// Why device-mapper alone cannot show an image, and from which byte on. `map --via auto` takes another way then; `map
// --via dm` and `table` tell the user.

public import DiskTypes

/// What stands between an image and a table of linear targets.
public struct DMUnsupported: Error, Equatable, Sendable {
    /// What a table cannot say, or the kernel not do.
    public enum Reason: Equatable, Sendable {
        /// The kernel cannot inflate.
        case compressed
        /// Bytes that do not begin or end at a sector, on the disk or in file number `file`.
        case misaligned(file: UInt16)
        /// The last bytes of file number `file` are less than a sector: its loop device ends before them.
        case partialSector(file: UInt16)
        /// More lines than one table takes.
        case tooManyTargets(limit: Int)
        /// The table is larger than libdevmapper hands to the kernel.
        case tableTooLarge(bytes: Int)
        /// The disk is larger than a device can be.
        case diskTooLarge
        /// The extents do not reach the end of the disk.
        case incomplete
        /// The disk has no bytes; a table needs one line at least.
        case emptyDisk
    }
    /// What is in the way.
    public let reason: Reason
    /// The first guest byte that it concerns, where there is one.
    public let guest: GuestOffset?

    /// An obstacle, at the first guest byte that it concerns.
    public init(_ reason: Reason, at guest: GuestOffset? = nil) {
        self.reason = reason
        self.guest = guest
    }

    /// What is in the way, in words, with the place.
    public var what: String {
        guard let guest else { return words }
        return "\(words) (\(guest))"
    }

    /// The error of a caller that wanted device-mapper and nothing else.
    public var error: ImageError {
        .unsupported("device-mapper cannot express this image: \(what)", advice: advice)
    }

    private var words: String {
        switch reason {
        case .compressed: "it has compressed clusters"
        case .misaligned: "its data does not lie on sectors of 512 bytes"
        case .partialSector: "a file of it ends inside a sector, and a loop device leaves that sector out"
        case .tooManyTargets(let limit): "it is so fragmented that it needs more than \(limit) targets"
        case .tableTooLarge(let bytes):
            "its table takes \(bytes) bytes, and libdevmapper passes \(DMLimits.maxIoctlBytes) at most"
        case .diskTooLarge: "its disk is larger than a block device can be"
        case .incomplete: "its map does not cover its disk"
        case .emptyDisk: "its disk has no bytes"
        }
    }

    private var advice: String? {
        switch reason {
        case .compressed, .misaligned, .partialSector: "map it another way (without --via dm)"
        case .tooManyTargets, .tableTooLarge:
            "map it another way (without --via dm), or defragment it with convert"
        case .diskTooLarge, .emptyDisk, .incomplete: nil
        }
    }
}
