// A file of the chain, as far as transfers must know it: descriptors, and what O_DIRECT asks of memory and ranges.
import LinuxIO

/// What the data path needs of a `HostFile`, without touching the class.
struct DataFile: TableRecord {
    typealias Index = UInt16

    /// For metadata and compressed streams: any offset, any length.
    var buffered: Int32
    /// For data.
    var data: Int32
    /// The same for the ring: a registered file's index where `flags` says so.
    var ringData: Int32 = -1
    var flags: UInt8 = 0
    /// Low bits that must be clear in addresses and in offsets and lengths of reads by `data`; 0 when buffered.
    var memoryMask: UInt
    var offsetMask: UInt64
}

extension DataFile {
    /// Data goes past the page cache where the file allows it, unless its blocks are too large to bounce.
    /// `direct`: past the page cache, where the file can.
    init(_ file: HostFile, direct: Bool) {
        let memory = max(file.directMemoryAlignment, 1)
        let offset = max(file.directOffsetAlignment, 1)
        let usable = direct && file.directFD >= 0 && DataFile.fits(memory) && DataFile.fits(offset)
        self.init(
            buffered: file.fd, data: usable ? file.directFD : file.fd,
            memoryMask: usable ? UInt(memory) &- 1 : 0, offsetMask: usable ? UInt64(offset) &- 1 : 0)
        ringData = data
    }

    /// Data goes past the page cache.
    var isDirect: Bool { data != buffered }

    /// Makes the file known to the ring beforehand, if that can be.
    mutating func keep(in ring: Ring) {
        let place = ring.registerFile(data)
        guard place >= 0 else { return }
        ringData = place
        flags = Ring.Flag.fixedFile
    }

    func release(in ring: Ring) { if flags != 0 { ring.releaseFile(ringData) } }

    /// Masks need powers of two, and bounce buffers start on pages.
    private static func fits(_ alignment: Int) -> Bool { alignment <= 4096 && alignment & (alignment - 1) == 0 }
}
