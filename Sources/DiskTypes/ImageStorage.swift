// Who repairs an image must write it, in an order that a crash cannot turn into damage. What that needs of a file is
// this much; crash tests hand the same code a memory that remembers the order.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Bytes that can be read, written and made durable. One user at a time changes it.
public protocol ImageStorage: ByteSource {
    /// Writes all of `bytes` at `offset`. The storage grows when it must; what lies between reads as zeros.
    func write(at offset: HostOffset, _ bytes: [UInt8]) throws(ImageError)
    /// Everything written before reaches the medium before anything written after.
    func sync() throws(ImageError)
}

/// A storage in memory. Not for several threads at once.
public final class MemoryStorage: ImageStorage {
    /// What was asked of it, in order.
    public enum Step: Equatable, Sendable {
        case write(HostOffset, [UInt8])
        case sync
    }

    /// What the storage holds now.
    public var bytes: [UInt8]
    /// Every write and sync so far, while `isRecording`.
    public private(set) var steps: [Step] = []
    /// Whether writes and syncs are kept in `steps`.
    public var isRecording: Bool
    /// The longest it may grow; writing further is the error of a full disk.
    public let limit: Int

    /// A storage that holds `bytes`, and records what is asked of it if `recording`.
    public init(_ bytes: [UInt8], recording: Bool = false, limit: Int = 1 << 30) {
        self.bytes = bytes
        isRecording = recording
        self.limit = limit
    }

    /// The number of bytes now.
    public var length: UInt64 { UInt64(bytes.count) }

    /// Up to `count` bytes at `offset`; none past the end. Never throws.
    public func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        guard count > 0, offset.bytes < UInt64(bytes.count) else { return [] }
        let start = Int(offset.bytes)
        return Array(bytes[start..<(start + min(count, bytes.count - start))])
    }

    /// Writes, and grows with zeros up to `offset`. ENOSPC beyond `limit`.
    public func write(at offset: HostOffset, _ new: [UInt8]) throws(ImageError) {
        guard !new.isEmpty else { return }
        guard offset.bytes <= UInt64(limit), new.count <= limit - Int(offset.bytes) else {
            throw ImageError(.system, "cannot write: the storage is full", at: offset, number: ENOSPC)
        }
        let start = Int(offset.bytes)
        if bytes.count < start + new.count {
            bytes += [UInt8](repeating: 0, count: start + new.count - bytes.count)
        }
        bytes.replaceSubrange(start..<(start + new.count), with: new)
        if isRecording { steps.append(.write(offset, new)) }
    }

    /// Records a sync, if the storage records. Never throws.
    public func sync() throws(ImageError) { if isRecording { steps.append(.sync) } }
}
