// Decodes the streams of compressed clusters, which may be hostile. A stream becomes exactly one cluster or an error;
// nothing is written past the cluster, and the memory that is used is limited whatever the stream claims.
import CQblk
public import DiskTypes

/// Decodes compressed clusters. Each worker has its own, because it keeps working memory between clusters; it is not
/// `Sendable`.
public final class ClusterDecoder {
    private let deflate: DeflateDecoder
    private let zstd: ZstdDecoder

    /// Nil when there is no memory for the decompressors.
    public init?() {
        guard let deflate = DeflateDecoder(), let zstd = ZstdDecoder() else { return nil }
        self.deflate = deflate
        self.zstd = zstd
    }

    /// Decodes the stream that `source` begins with until `target`, one cluster, is full.
    ///
    /// What follows the stream in `source` is ignored: compressed sizes are stored in sectors, so there is always
    /// something. A stream of more than one cluster is cut, as QEMU cuts it. False when the stream is broken or ends
    /// before the cluster is full; the bytes of `target` mean nothing then.
    public func decode(
        _ method: CompressionMethod, from source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let from = source.baseAddress, let into = target.baseAddress, source.count > 0, target.count > 0 else {
            return false
        }
        return switch method {
        case .deflate: unsafe deflate.decode(from, source.count, into, target.count)
        case .zstd: unsafe zstd.decode(from, source.count, into, target.count)
        }
    }
}

@available(*, unavailable) extension ClusterDecoder: Sendable {}
