// One zstd frame a cluster, at the level QEMU uses, without making a compressor for each.
import CQblk

final class ZstdEncoder {
    private let context: OpaquePointer

    init?() {
        guard let context = ZSTD_createCCtx() else { return nil }
        self.context = context
    }

    deinit { ZSTD_freeCCtx(context) }

    func encode(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Int? {
        let count = ZSTD_compress2(context, target, targetCount, source, sourceCount)
        return ZSTD_isError(count) == 0 ? count : nil
    }
}
