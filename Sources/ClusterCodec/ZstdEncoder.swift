// Encodes compressed clusters as zstd frames, at the level that QEMU uses. A worker has one compressor for all of its
// clusters.
import CQblk

@safe final class ZstdEncoder {
    private let context: OpaquePointer

    init?() {
        guard let context = unsafe ZSTD_createCCtx() else { return nil }
        unsafe self.context = unsafe context
    }

    deinit { unsafe ZSTD_freeCCtx(context) }

    func encode(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Int? {
        let count = unsafe ZSTD_compress2(context, target, targetCount, source, sourceCount)
        return ZSTD_isError(count) == 0 ? count : nil
    }
}
