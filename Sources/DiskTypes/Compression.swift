// Which stream a compressed cluster holds is said by the format and obeyed by the codec; they share this word and
// nothing else.

/// How compressed clusters of an image are compressed (header field compression_type).
@frozen public enum CompressionMethod: UInt8, Sendable, BitwiseCopyable {
    /// Raw deflate, no zlib header; QEMU writes it with a 4 KiB window.
    case deflate = 0
    /// One zstd frame a cluster.
    case zstd = 1

    /// The name `qemu-img info` gives it.
    public var name: String { self == .deflate ? "zlib" : "zstd" }
}
