// An extent that cannot be moved in one transfer is moved in parts. How long the next one is, and whether it goes straight
// into the caller's memory or through an aligned buffer, follows from alignment alone.
import Glibc

/// The next part of an extent.
struct TransferPart {
    var kind: Transfer.Kind
    /// Bytes.
    var length: Int

    /// - Parameters:
    ///   - at: where in the request the extent's rest begins.
    ///   - host: where in the file it does.
    ///   - left: bytes that are left of the extent.
    init(_ memory: RequestMemory, at: Int, host: UInt64, left: Int, _ file: DataFile) {
        length = min(left, TransferQueue.largestTransfer)
        kind = unsafe memory.base == nil ? .vector : .plain
        guard file.offsetMask != 0 else { return }
        let straight = length & ~Int(truncatingIfNeeded: file.offsetMask)
        let suits =
            straight > 0 && host & file.offsetMask == 0
            && memory.isAligned(at: at, length: straight, memoryMask: file.memoryMask, lengthMask: file.offsetMask)
        if suits {
            length = straight
        } else {
            kind = .bounce
            length = TransferPart.bounceLength(memory, at: at, host: host, left: left, file)
        }
    }

    /// How much of `left` bytes to move through one bounce buffer: up to the next place from where the rest can go
    /// straight into the caller's memory, if there is one; else as much as the buffer takes.
    private static func bounceLength(
        _ memory: RequestMemory, at: Int, host: UInt64, left: Int, _ file: DataFile
    ) -> Int {
        let into = Int(truncatingIfNeeded: host & file.offsetMask)
        let most = min(left, BounceBuffers.bufferBytes &- into)
        let toAligned = into == 0 ? 0 : Int(truncatingIfNeeded: file.offsetMask) &+ 1 &- into
        guard let base = unsafe memory.base, toAligned > 0, toAligned < left,
            unsafe UInt(bitPattern: base + at + toAligned) & file.memoryMask == 0
        else { return most }
        return min(most, toAligned)
    }
}
