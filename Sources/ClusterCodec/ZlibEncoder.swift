// Encodes raw deflate by zlib, as QEMU does, for a cluster whose fast encoding does not decode to the original.
import CQblk

/// Encodes raw deflate streams (no zlib header) as QEMU does.
final class ZlibEncoder {
    private let stream: UnsafeMutablePointer<z_stream>

    init?() {
        stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
        stream.initialize(to: z_stream())
        // QEMU's own choice: the default level, 4 KiB, most memory for the hashes.
        let size = Int32(MemoryLayout<z_stream>.size)
        let result = deflateInit2_(
            stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY, ZLIB_VERSION, size)
        guard result == Z_OK else {
            stream.deallocate()
            return nil
        }
    }

    deinit {
        deflateEnd(stream)
        stream.deallocate()
    }

    func encode(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Int? {
        guard let sourceSize = UInt32(exactly: sourceCount), let targetSize = UInt32(exactly: targetCount),
            deflateReset(stream) == Z_OK
        else { return nil }
        stream.pointee.next_in = UnsafeMutablePointer(mutating: source.assumingMemoryBound(to: UInt8.self))
        stream.pointee.avail_in = sourceSize
        stream.pointee.next_out = target.assumingMemoryBound(to: UInt8.self)
        stream.pointee.avail_out = targetSize
        guard deflate(stream, Z_FINISH) == Z_STREAM_END else { return nil }
        return targetCount - Int(stream.pointee.avail_out)
    }
}
