// Streams to decode, made by the libraries that write them for real.
import CQblk
import TestKit

/// Raw deflate as QEMU writes it: a 4 KiB window, no header.
func deflated(_ bytes: [UInt8], windowBits: Int32 = -12, level: Int32 = 6) -> [UInt8] {
    var stream = z_stream()
    guard
        deflateInit2_(
            &stream, level, Z_DEFLATED, windowBits, 9, Z_DEFAULT_STRATEGY, ZLIB_VERSION,
            Int32(MemoryLayout<z_stream>.size)) == Z_OK
    else { return [] }
    defer { deflateEnd(&stream) }
    var source = bytes
    var out = [UInt8](repeating: 0, count: bytes.count * 2 + 1024)
    source.withUnsafeMutableBufferPointer { from in
        out.withUnsafeMutableBufferPointer { into in
            stream.next_in = from.baseAddress
            stream.avail_in = UInt32(from.count)
            stream.next_out = into.baseAddress
            stream.avail_out = UInt32(into.count)
            _ = deflate(&stream, Z_FINISH)
        }
    }
    return Array(out[..<Int(stream.total_out)])
}

/// Inflates with a window of exactly so many bits: given room for one byte at a time, zlib has nothing else to look back
/// into. What came until the stream ended or was refused.
func inflatedByBytes(_ bytes: [UInt8], windowBits: Int32, count: Int) -> [UInt8] {
    var stream = z_stream()
    guard inflateInit2_(&stream, windowBits, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
        return []
    }
    defer { inflateEnd(&stream) }
    var source = bytes
    var out = [UInt8](repeating: 0, count: count)
    let made = source.withUnsafeMutableBufferPointer { from in
        out.withUnsafeMutableBufferPointer { into -> Int in
            stream.next_in = from.baseAddress
            stream.avail_in = UInt32(from.count)
            var made = 0
            while made < count {
                stream.next_out = into.baseAddress.map { $0 + made }
                stream.avail_out = 1
                let result = inflate(&stream, Z_NO_FLUSH)
                guard result == Z_OK || result == Z_STREAM_END, stream.avail_out == 0 else { break }
                made += 1
            }
            return made
        }
    }
    return Array(out[..<made])
}

/// One zstd frame.
func zstandard(_ bytes: [UInt8], windowLog: Int32 = 0, sizeKnown: Bool = true) -> [UInt8] {
    let context = ZSTD_createCCtx()
    defer { ZSTD_freeCCtx(context) }
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, windowLog)
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, sizeKnown ? 1 : 0)
    var out = [UInt8](repeating: 0, count: ZSTD_compressBound(bytes.count) + 1024)
    var made = 0
    bytes.withUnsafeBytes { from in
        out.withUnsafeMutableBytes { into in
            var input = ZSTD_inBuffer(src: from.baseAddress, size: from.count, pos: 0)
            var output = ZSTD_outBuffer(dst: into.baseAddress, size: into.count, pos: 0)
            if sizeKnown {
                ZSTD_compressStream2(context, &output, &input, ZSTD_e_end)
            } else {
                ZSTD_compressStream2(context, &output, &input, ZSTD_e_flush)
                ZSTD_compressStream2(context, &output, &input, ZSTD_e_end)
            }
            made = output.pos
        }
    }
    return Array(out[..<made])
}

/// Something a compressor can do something with: noise, and repetitions of it at many distances.
func text(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var random = SeededRandom(seed)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 4096)
    while bytes.count < min(count, 1024) {
        let pick = random.next()
        for i in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: pick >> (8 * UInt64(i)))) }
    }
    while bytes.count < count {
        let length = 16 + Int(random.next() % (count > 65536 ? 2048 : 64))
        let from = Int(random.next() % UInt64(bytes.count - min(length, bytes.count - 1)))
        bytes.append(contentsOf: Array(bytes[from..<min(from + length, bytes.count)]))
        bytes.append(UInt8(truncatingIfNeeded: random.next()))
    }
    return Array(bytes[..<count])
}
