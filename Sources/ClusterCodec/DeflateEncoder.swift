// Raw deflate with a window of 4 KiB, which is what QEMU's inflate is told to expect. libdeflate always matches over
// 32 KiB; ISA-L can be told, and is ten times as fast as zlib for streams 3 to 8 % longer.
import CQblk
import Glibc

/// Encodes raw deflate streams (no zlib header).
final class DeflateEncoder {
    private let fast: OpaquePointer
    private let judge: OpaquePointer
    /// What a stream is decoded to before it is trusted.
    private var proof = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var careful: ZlibEncoder?

    init?() {
        guard let fast = qb_deflate_new() else { return nil }
        guard let judge = libdeflate_alloc_decompressor() else {
            qb_deflate_free(fast)
            return nil
        }
        self.fast = fast
        self.judge = judge
    }

    deinit {
        qb_deflate_free(fast)
        libdeflate_free_decompressor(judge)
        proof.deallocate()
    }

    func encode(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Int? {
        let count = qb_deflate_encode(fast, source, sourceCount, target, targetCount)
        if count == 0 { return nil }
        if isGood(target, count, source, sourceCount) { return count }
        return encodeCarefully(source, sourceCount, target, targetCount)
    }

    /// Whether the stream decodes to what it was made of. A compressor chosen for speed is believed nothing: the source
    /// is gone when the cluster is read. Costs a quarter of the encoding.
    private func isGood(
        _ stream: UnsafeRawPointer, _ count: Int, _ source: UnsafeRawPointer, _ sourceCount: Int
    ) -> Bool {
        if proof.count < sourceCount {
            proof.deallocate()
            proof = .allocate(byteCount: sourceCount, alignment: 64)
        }
        guard let back = proof.baseAddress else { return false }
        // Without a place for the count, only exactly `sourceCount` bytes are a success.
        return libdeflate_deflate_decompress(judge, stream, count, back, sourceCount, nil) == LIBDEFLATE_SUCCESS
            && memcmp(back, source, sourceCount) == 0
    }

    private func encodeCarefully(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Int? {
        if careful == nil { careful = ZlibEncoder() }
        guard let count = careful?.encode(source, sourceCount, target, targetCount),
            isGood(target, count, source, sourceCount)
        else { return nil }
        return count
    }
}
