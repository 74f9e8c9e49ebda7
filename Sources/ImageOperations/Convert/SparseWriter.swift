// What an image calls data is often zeros (a formatted disk, a preallocated file). They are found block by block and
// left out, so that the target takes no more space than it must.

import DiskTypes

enum SparseWriter {
    /// Zeros are looked for in blocks of this size, at multiples of it: the size file systems make holes in.
    private static let block = 4096

    /// Writes `bytes` at `place`, except runs of zeros of at least `sparse` bytes (0: writes all).
    static func write(
        _ bytes: UnsafeRawBufferPointer, at place: UInt64, to target: some TargetLane, sparse: UInt64
    ) throws(ImageError) {
        guard sparse > 0, let base = bytes.baseAddress else { return try unsafe target.write(bytes, at: place) }
        let unit = sparse < UInt64(block) ? 512 : block
        var dataStart = 0
        var at = 0
        while at < bytes.count {
            let zeros = unsafe zeroRun(base, from: at, count: bytes.count, place, unit)
            guard zeros > 0, UInt64(zeros) >= sparse || at + zeros == bytes.count else {
                at += max(zeros, step(at, place, unit))
                continue
            }
            try unsafe write(base, dataStart, at, place, target)
            try target.zero(at: place + UInt64(at), length: UInt64(zeros))
            at += zeros
            dataStart = at
        }
        try unsafe write(base, dataStart, bytes.count, place, target)
    }

    private static func write(
        _ base: UnsafeRawPointer, _ from: Int, _ to: Int, _ place: UInt64, _ target: some TargetLane
    ) throws(ImageError) {
        guard from < to else { return }
        try unsafe target.write(UnsafeRawBufferPointer(start: base + from, count: to - from), at: place + UInt64(from))
    }

    /// Bytes up to the next multiple of `unit` on the disk.
    private static func step(_ at: Int, _ place: UInt64, _ unit: Int) -> Int {
        unit - Int((place + UInt64(at)) & UInt64(unit - 1))
    }

    /// How many bytes from `from` on are zeros, in whole units.
    private static func zeroRun(
        _ base: UnsafeRawPointer, from: Int, count: Int, _ place: UInt64, _ unit: Int
    ) -> Int {
        var at = from
        while at < count {
            let length = min(step(at, place, unit), count - at)
            guard unsafe ZeroScan.isZero(base + at, length) else { break }
            at += length
        }
        return at - from
    }
}
