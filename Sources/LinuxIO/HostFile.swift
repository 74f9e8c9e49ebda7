public import DiskTypes
public final class HostFile: Sendable, ByteSource {
    public let length: UInt64 = 0
    public func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] { [] }
}
