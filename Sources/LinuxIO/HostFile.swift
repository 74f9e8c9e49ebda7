// Stand-in until the real file is merged.
public import DiskTypes
public final class HostFile: Sendable, ByteSource {
    public let fd: Int32 = -1
    public let directFD: Int32 = -1
    public let directMemoryAlignment = 0
    public let directOffsetAlignment = 0
    public let length: UInt64 = 0
    public func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] { [] }
}
public func errorText(_ number: Int32) -> String { "error \(number)" }
