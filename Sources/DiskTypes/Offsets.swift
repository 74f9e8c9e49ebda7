// A byte position on the guest's disk and one in a host file are both 64-bit numbers, and mixing them up destroys
// disks. Here they are two types, and adding one to the other does not compile.

/// A byte position on the disk the guest sees.
@frozen public struct GuestOffset: Hashable, Comparable, Sendable, BitwiseCopyable {
    /// Bytes from the start of the disk.
    public var bytes: UInt64
    /// The byte number `bytes` of the disk.
    @inlinable public init(_ bytes: UInt64) { self.bytes = bytes }

    /// Whether `a` comes before `b`.
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.bytes < b.bytes }
    /// The position `b` bytes further on. The sum must fit in 64 bits.
    @inlinable public static func + (a: Self, b: UInt64) -> Self { Self(a.bytes + b) }
    /// Distance in bytes. The left side must not be the smaller one.
    @inlinable public static func - (a: Self, b: Self) -> UInt64 { a.bytes - b.bytes }
}

/// A byte position in a file of the host: the image, its backing file, its external data file.
@frozen public struct HostOffset: Hashable, Comparable, Sendable, BitwiseCopyable {
    /// Bytes from the start of the file.
    public var bytes: UInt64
    /// The byte number `bytes` of the file.
    @inlinable public init(_ bytes: UInt64) { self.bytes = bytes }

    /// Whether `a` comes before `b`.
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.bytes < b.bytes }
    /// The position `b` bytes further on. The sum must fit in 64 bits.
    @inlinable public static func + (a: Self, b: UInt64) -> Self { Self(a.bytes + b) }
    /// Distance in bytes. The left side must not be the smaller one.
    @inlinable public static func - (a: Self, b: Self) -> UInt64 { a.bytes - b.bytes }
}

extension GuestOffset: CustomStringConvertible {
    /// `guest offset 0x1f0000`, as messages say it.
    public var description: String { "guest offset \(hex(bytes))" }
}
extension HostOffset: CustomStringConvertible {
    /// `file offset 0x1f0000`, as messages say it.
    public var description: String { "file offset \(hex(bytes))" }
}

/// `0x1f0000`: how offsets are written in every message.
public func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
