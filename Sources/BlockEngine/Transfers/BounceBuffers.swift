// O_DIRECT wants aligned memory and aligned ranges; guests and file ends do not always oblige.
// A few buffers in between serve all transfers; a request that finds none waits in line.
import LinuxIO

/// Aligned buffers of one size, made once.
@safe struct BounceBuffers {
    /// Room for a cluster of the usual size with a block of slack on either side.
    static let bufferBytes = 128 << 10
    private static let alignment = 4096

    private let memory: UnsafeMutableRawPointer?
    private var list: FreeList<BounceIndex>

    init(count: Int) {
        list = FreeList<BounceIndex>(count: count)
        unsafe memory =
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
        unsafe memory.unsafelyUnwrapped + index.position &* BounceBuffers.bufferBytes
    }

    func free() {
        list.free()
        unsafe memory?.deallocate()
    }
}
