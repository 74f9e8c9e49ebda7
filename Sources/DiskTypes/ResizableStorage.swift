// An image that is written grows, and is cut to its length again when it is closed.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A storage whose length can be set.
public protocol ResizableStorage: ImageStorage {
    /// Whether it can grow: a block device cannot.
    var canGrow: Bool { get }
    /// Cuts or extends it to `newLength` bytes; new ones read as zeros.
    func truncate(to newLength: UInt64) throws(ImageError)
    /// Its length in bytes as it is now, also where another program changed it.
    func presentLength() throws(ImageError) -> UInt64
    /// Gives a range's space back; what it reads as afterwards does not matter.
    func discard(at offset: HostOffset, length: UInt64)
}

extension ResizableStorage {
    /// For a storage that no other program can change.
    public func presentLength() throws(ImageError) -> UInt64 { length }
}

extension MemoryStorage: ResizableStorage {
    /// Memory can grow, up to `limit`.
    public var canGrow: Bool { true }
    /// Cuts the bytes or appends zeros. ENOSPC beyond `limit`.
    public func truncate(to newLength: UInt64) throws(ImageError) {
        guard newLength <= UInt64(limit) else {
            throw ImageError(.system, "cannot resize: the storage is full", number: ENOSPC)
        }
        let length = Int(newLength)
        if length < bytes.count { bytes.removeLast(bytes.count - length) }
        bytes += [UInt8](repeating: 0, count: length - bytes.count)
    }
    /// Memory keeps what it has: the bytes stay.
    public func discard(at offset: HostOffset, length: UInt64) {}
}
