// Decodes raw deflate, by one of two libraries. libdeflate is twice as fast as zlib but needs a stream that ends; a
// stream that is longer than a cluster, or broken behind it, still holds a good cluster, which zlib decodes.
import CQblk

/// Decodes raw deflate streams (no zlib header), whatever their window.
@safe final class DeflateDecoder {
    private let fast: OpaquePointer
    private let stream: UnsafeMutablePointer<z_stream>

    init?() {
        guard let fast = unsafe libdeflate_alloc_decompressor() else { return nil }
        let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
        unsafe stream.initialize(to: z_stream())
        // QEMU's window has 4 KiB, others may have more: a decoder with the largest window reads them all.
        guard unsafe inflateInit2_(stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            unsafe libdeflate_free_decompressor(fast)
            unsafe stream.deallocate()
            return nil
        }
        unsafe self.fast = unsafe fast
        unsafe self.stream = unsafe stream
    }

    deinit {
        unsafe libdeflate_free_decompressor(fast)
        unsafe inflateEnd(stream)
        unsafe stream.deallocate()
    }

    func decode(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Bool {
        var used = 0
        var made = 0
        let result = unsafe libdeflate_deflate_decompress_ex(
            fast, source, sourceCount, target, targetCount, &used, &made)
        if result == LIBDEFLATE_SUCCESS { return made == targetCount }
        return unsafe inflateUntilFull(source, sourceCount, target, targetCount)
    }

    /// Inflates until the target is full, however the stream goes on.
    private func inflateUntilFull(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Bool {
        guard let sourceSize = UInt32(exactly: sourceCount), let targetSize = UInt32(exactly: targetCount),
            unsafe inflateReset(stream) == Z_OK
        else { return false }
        unsafe stream.pointee.next_in = unsafe UnsafeMutablePointer(
            mutating: source.assumingMemoryBound(to: UInt8.self))
        unsafe stream.pointee.avail_in = sourceSize
        unsafe stream.pointee.next_out = unsafe target.assumingMemoryBound(to: UInt8.self)
        unsafe stream.pointee.avail_out = targetSize
        let result = unsafe inflate(stream, Z_FINISH)
        return unsafe (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.pointee.avail_out == 0
    }
}
