// O_DIRECT wants aligned memory and aligned ranges; guests and file ends do not always oblige.
// A few buffers in between serve all transfers; a request that finds none waits in line.
import LinuxIO

/// Aligned buffers of one size, made once.
struct BounceBuffers {
    /// Room for a cluster of the usual size with a block of slack on either side.
    static let bufferBytes = 128 << 10
    private static let alignment = 4096

    private let memory: UnsafeMutableRawPointer?
    private var list: FreeList<BounceIndex>

    init(count: Int) {
        list = FreeList<BounceIndex>(count: count)
        memory =
            count > 0
            ? UnsafeMutableRawPointer.allocate(
                byteCount: count * BounceBuffers.bufferBytes, alignment: BounceBuffers.alignment) : nil
    }

    @inline(__always) var available: Int { list.available }
    mutating func take() -> BounceIndex { list.take() }
    mutating func give(_ index: BounceIndex) { if index.exists { list.give(index) } }

    /// The memory of a buffer that was taken.
    func buffer(_ index: BounceIndex) -> UnsafeMutableRawPointer {
        // Only pools with buffers give out indices.
        memory.unsafelyUnwrapped + index.position &* BounceBuffers.bufferBytes
    }

    func free() {
        list.free()
        memory?.deallocate()
    }
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
