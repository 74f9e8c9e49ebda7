// Tests say an image in a few words: a minimal valid one, then the bytes that matter changed.

import DiskTypes
import Foundation

@testable import QCOW2

/// Bytes of a small image, growing as they are written to.
struct ImageBytes {
    var bytes: [UInt8] = []

    /// A valid image: header in cluster 0, refcount table in 1, L1 table in 2, nothing allocated.
    init(version: UInt32 = 3, clusterBits: UInt32 = 9, size: UInt64 = 1 << 20) {
        let cluster: UInt64 = 1 << UInt64(clusterBits)
        put(Header.magic, at: 0)
        put(version, at: 4)
        put(clusterBits, at: 20)
        put(size, at: 24)
        put(UInt32(size == 0 ? 0 : ((size - 1) >> UInt64(2 * clusterBits - 3)) + 1), at: 36)
        put(2 * cluster, at: 40)
        put(cluster, at: 48)
        put(UInt32(1), at: 56)
        if version >= 3 {
            put(UInt32(4), at: 96)
            put(UInt32(104), at: 100)
        }
        pad(to: Int(3 * cluster + size >> UInt64(2 * clusterBits - 3) * 8 + 8))
    }

    mutating func pad(to count: Int) {
        if bytes.count < count { bytes += [UInt8](repeating: 0, count: count - bytes.count) }
    }
    mutating func put<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        put((0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> T($0 * 8)) }.reversed(), at: offset)
    }
    mutating func put(_ value: some FixedWidthInteger, at offset: UInt64) { put(value, at: Int(offset)) }
    mutating func put(_ text: String, at offset: Int) { put(Array(text.utf8), at: offset) }
    mutating func put(_ new: [UInt8], at offset: Int) {
        pad(to: offset + new.count)
        bytes.replaceSubrange(offset..<(offset + new.count), with: new)
    }
    /// A header extension at `offset`; returns where the next one goes.
    @discardableResult
    mutating func putExtension(_ type: UInt32, _ body: [UInt8], at offset: Int) -> Int {
        put(type, at: offset)
        put(UInt32(body.count), at: offset + 4)
        put(body, at: offset + 8)
        return offset + 8 + (body.count + 7) & ~7
    }

    var source: MemorySource { MemorySource(bytes) }
    func header() throws -> Header { try Header(BigEndianBytes(Array(bytes.prefix(512)))) }
    func image() throws -> QCOW2Image { try QCOW2Image(reading: source) }
    /// The line a user would read, or nil when the image opens.
    func refusal() -> String? {
        do {
            _ = try QCOW2Image(reading: source)
            return nil
        } catch { return error.description }
    }
}

/// Big-endian bytes of an integer.
func big<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
    (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> T(T.bitWidth - 8 - $0 * 8)) }
}

/// A source that is as long as it says and zero wherever nothing was written: what a sparse file is.
struct SparseSource: ByteSource, Sendable {
    var length: UInt64
    /// Written pieces by their offset; they do not overlap.
    var pieces: [UInt64: [UInt8]] = [:]

    init(_ bytes: [UInt8], length: UInt64) {
        self.length = length
        pieces[0] = bytes
    }
    init(length: UInt64) { self.length = length }

    func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        guard offset.bytes < length else { return [] }
        let end = offset.bytes + min(UInt64(count), length - offset.bytes)
        var out = [UInt8](repeating: 0, count: Int(end - offset.bytes))
        for (start, piece) in pieces where start < end && start + UInt64(piece.count) > offset.bytes {
            let from = max(start, offset.bytes)
            let to = min(end, start + UInt64(piece.count))
            out.replaceSubrange(
                Int(from - offset.bytes)..<Int(to - offset.bytes), with: piece[Int(from - start)..<Int(to - start)])
        }
        return out
    }
}

/// How much of the random tests to run: QBLK_TEST_ROUNDS in the environment, else 1.
let testRounds = max(1, ProcessInfo.processInfo.environment["QBLK_TEST_ROUNDS"].flatMap(Int.init) ?? 1)
