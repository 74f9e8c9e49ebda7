// Why this file exists: an image that is written grows, and is cut to its length again when it is closed.

/// A storage whose length can be set.
public protocol ResizableStorage: ImageStorage {
    /// Whether it can grow: a block device cannot.
    var canGrow: Bool { get }
    /// Cuts or extends it to `newLength` bytes; new ones read as zeros.
    func truncate(to newLength: UInt64) throws(ImageError)
    /// Gives a range's space back; what it reads as afterwards does not matter.
    func discard(at offset: HostOffset, length: UInt64)
}

extension MemoryStorage: ResizableStorage {
    public var canGrow: Bool { true }
    public func truncate(to newLength: UInt64) throws(ImageError) {
        guard newLength <= UInt64(limit) else { throw ImageError(.system, "cannot resize: the storage is full") }
        let length = Int(newLength)
        if length < bytes.count { bytes.removeLast(bytes.count - length) }
        bytes += [UInt8](repeating: 0, count: length - bytes.count)
    }
    public func discard(at offset: HostOffset, length: UInt64) {}
}
