// Encodes raw deflate by zlib, as QEMU does, for a cluster whose fast encoding does not decode to the original.
import CQblk

/// Encodes raw deflate streams (no zlib header) as QEMU does.
@safe final class ZlibEncoder {
    private let stream: UnsafeMutablePointer<z_stream>

    init?() {
        unsafe stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
        unsafe stream.initialize(to: z_stream())
        // QEMU's own choice: the default level, 4 KiB, most memory for the hashes.
        let size = unsafe Int32(MemoryLayout<z_stream>.size)
        let result = unsafe deflateInit2_(
            stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY, ZLIB_VERSION, size)
        guard result == Z_OK else {
            unsafe stream.deallocate()
            return nil
        }
    }

    deinit {
        unsafe deflateEnd(stream)
        unsafe stream.deallocate()
    }

    func encode(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Int? {
        guard let sourceSize = UInt32(exactly: sourceCount), let targetSize = UInt32(exactly: targetCount),
            unsafe deflateReset(stream) == Z_OK
        else { return nil }
        unsafe stream.pointee.next_in = unsafe UnsafeMutablePointer(
            mutating: source.assumingMemoryBound(to: UInt8.self))
        unsafe stream.pointee.avail_in = sourceSize
        unsafe stream.pointee.next_out = unsafe target.assumingMemoryBound(to: UInt8.self)
        unsafe stream.pointee.avail_out = targetSize
        guard unsafe deflate(stream, Z_FINISH) == Z_STREAM_END else { return nil }
        return unsafe targetCount - Int(stream.pointee.avail_out)
    }
}
