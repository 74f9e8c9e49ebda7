// What can be wrong with a message of the other side. The reader throws it, the owner of the connection decides
// (answer failure, or close); nothing here traps.

/// A message that breaks the protocol.
public enum WireError: Error, Equatable, Sendable {
    /// Fewer bytes than a header.
    case headerCutOff(bytes: Int)
    case wrongVersion(UInt32)
    case payloadTooLong(bytes: UInt32)
    /// The payload has not the size that this request has.
    case wrongSize(Structure, bytes: Int)
    case tooManyRegions(UInt32)
    /// A region without bytes, or one that leaves the 64-bit address space.
    case regionOverflows(guestAddress: UInt64)
    case configOutOfRange(offset: UInt32, bytes: UInt32)
    /// An area of a shared file whose end is no 64-bit number.
    case areaOverflows(Structure)

    /// What the bytes were taken for.
    public enum Structure: String, Sendable {
        case number = "number"
        case vringState = "vring state"
        case vringAddress = "vring address"
        case memoryTable = "memory table"
        case memoryRegion = "memory region"
        case config = "configuration access"
        case inflight = "in-flight description"
        case log = "log description"
    }
}

extension WireError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .headerCutOff(let bytes): "a message ends after \(bytes) bytes of its header"
        case .wrongVersion(let version): "a message has version \(version), not \(MessageHeader.version)"
        case .payloadTooLong(let bytes):
            "a message of \(bytes) bytes is longer than \(VhostUserLimits.maxPayloadBytes)"
        case .wrongSize(let what, let bytes): "a \(what.rawValue) cannot have \(bytes) bytes"
        case .tooManyRegions(let count):
            "a memory table of \(count) regions is longer than \(VhostUserLimits.maxTableRegions)"
        case .regionOverflows(let at): "the memory region at 0x\(String(at, radix: 16)) is empty or overflows"
        case .configOutOfRange(let offset, let bytes):
            "the configuration space has no \(bytes) bytes at \(offset)"
        case .areaOverflows(let what): "the area of an \(what.rawValue) overflows"
        }
    }
}
