// Decodes zstd frames. A frame says how much memory its decoding takes; this decoder limits how much it gets.
import CQblk

/// Decodes zstd frames, one after the other, until a cluster is full.
@safe final class ZstdDecoder {
    /// Frames with a larger window are refused: 8 MiB is what level 19 uses, four times the largest cluster.
    static let largestWindowLog: Int32 = 23

    private let context: OpaquePointer

    init?() {
        guard let context = unsafe ZSTD_createDCtx() else { return nil }
        guard
            unsafe ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, ZstdDecoder.largestWindowLog)) == 0
        else {
            unsafe ZSTD_freeDCtx(context)
            return nil
        }
        unsafe self.context = unsafe context
    }

    deinit { unsafe ZSTD_freeDCtx(context) }

    func decode(
        _ source: UnsafeRawPointer, _ sourceCount: Int, _ target: UnsafeMutableRawPointer, _ targetCount: Int
    ) -> Bool {
        // Forgets what a broken frame left behind; parameters stay.
        guard unsafe ZSTD_isError(ZSTD_DCtx_reset(context, ZSTD_reset_session_only)) == 0 else { return false }
        var input = unsafe ZSTD_inBuffer(src: source, size: sourceCount, pos: 0)
        var output = unsafe ZSTD_outBuffer(dst: target, size: targetCount, pos: 0)
        while unsafe output.pos < output.size {
            let before = unsafe (input.pos, output.pos)
            guard unsafe ZSTD_isError(ZSTD_decompressStream(context, &output, &input)) == 0 else { return false }
            // The stream ended early: it takes nothing more and gives nothing more.
            if unsafe input.pos == before.0, unsafe output.pos == before.1 { return false }
        }
        return true
    }
}
