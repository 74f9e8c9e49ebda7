// What a request of the benchmark has in guest memory beside its data: an indirect table, a header and a
// status; and how much memory a ring of such requests takes.

import Virtqueue

/// Offsets in the frame of a slot of a `SlotRing`, in bytes.
enum RequestFrame {
    static let table = 0
    static let header = 48
    static let status = 64
    static let bytes = 128
}

extension SlotRing {
    /// Entries of a ring for `depth` requests, a power of two.
    static func size(depth: Int, isIndirect: Bool) -> Int {
        var size = 128
        while size < depth * (isIndirect ? 1 : 3) { size *= 2 }
        return size
    }
    /// Bytes of guest memory that the ring and its buffers take at most.
    static func bytes(depth: Int, blockBytes: Int, size: Int) -> Int {
        size * 16 + RingLayout.availBytes(size: size) + RingLayout.usedBytes(size: size) + depth * RequestFrame.bytes
            + depth * blockBytes + 4 * 4096
    }
}
