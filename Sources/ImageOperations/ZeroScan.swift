// Zeros are not written and not compared byte by byte; finding them has to cost next to nothing.

import Glibc

enum ZeroScan {
    /// Whether all bytes are 0. One look at the first byte spares most data the rest.
    @inline(__always)
    static func isZero(_ start: UnsafeRawPointer, _ count: Int) -> Bool {
        guard count > 0 else { return true }
        // The bytes equal themselves shifted by one and the first is 0: all are. memcmp is the C library's best loop.
        return unsafe start.load(as: UInt8.self) == 0 && memcmp(start, start + 1, count - 1) == 0
    }

    /// The first sector with a byte that is not 0, as an offset; nil when there is none.
    static func firstData(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard let base = bytes.baseAddress, unsafe !isZero(base, bytes.count) else { return nil }
        for at in stride(from: 0, to: bytes.count, by: 512) where unsafe !isZero(base + at, min(512, bytes.count - at))
        {
            return at
        }
        return nil
    }

    /// The first sector in which two memories of one length differ, as an offset; nil when they are equal.
    static func firstDifference(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ count: Int) -> Int? {
        guard unsafe memcmp(a, b, count) != 0 else { return nil }
        for at in stride(from: 0, to: count, by: 512) where unsafe memcmp(a + at, b + at, min(512, count - at)) != 0 {
            return at
        }
        return nil
    }
}
