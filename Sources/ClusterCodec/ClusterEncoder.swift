// Encodes compressed clusters that every QEMU can read: raw deflate whose matches reach back no more than 4 KiB, or one
// zstd frame.
import CQblk
public import DiskTypes

/// Compresses clusters. Each worker has its own, because it keeps working memory between clusters; it is not
/// `Sendable`.
public final class ClusterEncoder {
    private enum Way {
        case deflate(DeflateEncoder)
        case zstd(ZstdEncoder)
    }
    private let way: Way

    /// Nil when there is no memory for the compressor.
    public init?(_ method: CompressionMethod) {
        switch method {
        case .deflate:
            guard let encoder = DeflateEncoder() else { return nil }
            way = .deflate(encoder)
        case .zstd:
            guard let encoder = ZstdEncoder() else { return nil }
            way = .zstd(encoder)
        }
    }

    /// Compresses all of `source`, one cluster, into `target`. Returns the bytes of the stream; nil when it does not
    /// fit: a cluster that does not become smaller is stored as it is.
    public func encode(
        _ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
    ) -> Int? {
        guard let from = source.baseAddress, let into = target.baseAddress, source.count > 0, target.count > 0 else {
            return nil
        }
        return switch way {
        case .deflate(let encoder): unsafe encoder.encode(from, source.count, into, target.count)
        case .zstd(let encoder): unsafe encoder.encode(from, source.count, into, target.count)
        }
    }
}

@available(*, unavailable) extension ClusterEncoder: Sendable {}
